import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wanspec.errors import ModelError
from wanspec.models.assemble import EMBEDDINGS, assemble_draft


@pytest.fixture
def parts(tmp_path):
    target, layers, folder = tmp_path / "target", tmp_path / "layers", tmp_path / "draft"
    for each in (target, layers, folder):
        each.mkdir()
    embeddings = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    save_file({EMBEDDINGS: embeddings, "model.layers.9.x": embeddings}, target / "model.safetensors")
    for name in ("tokenizer.json", "chat_template.jinja"):
        (target / name).write_text(name)
    save_file({"model.norm.weight": np.array([0.1], dtype=np.float16)}, layers / "layers.safetensors")
    (layers / "config.json").write_text(json.dumps({"vocab_size": 8, "hidden_size": 4, "dtype": "float16"}))
    return target, layers, folder


def test_the_draft_is_the_targets_embeddings_and_our_layers(parts):
    target, layers, folder = parts
    assemble_draft(target, layers, folder)
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == {EMBEDDINGS, "model.norm.weight"}
    np.testing.assert_array_equal(tensors[EMBEDDINGS], load_file(target / "model.safetensors")[EMBEDDINGS])
    assert tensors["model.norm.weight"] == np.float16(0.1).astype(np.float32)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert (folder / "chat_template.jinja").read_text() == "chat_template.jinja"


def test_layers_of_another_width_are_refused(parts):
    target, layers, folder = parts
    (layers / "config.json").write_text(json.dumps({"vocab_size": 8, "hidden_size": 5}))
    with pytest.raises(ModelError, match=r"\(8, 4\).*\(8, 5\)"):
        assemble_draft(target, layers, folder)

"""Whether two checkpoints fit each other and their recipe."""

from __future__ import annotations

import json

import pytest

from build_engines import pair as module
from build_engines.load import load
from tests.unit.build_engines.engine_doubles import RECIPE, SHAPE, write_folder
from wanspec.errors import ConfigError, ModelError


@pytest.fixture
def checked(tmp_path):
    """Check a draft against a target; what is given changes the draft's folder or the recipe's text."""

    def check(old="", new="", **draft):
        target, other = tmp_path / "target", tmp_path / "draft"
        write_folder(target)
        write_folder(other, **draft)
        file = tmp_path / "recipe.yaml"
        text = RECIPE.format(target=target, draft=other)
        assert old in text
        file.write_text(text.replace(old, new, 1))
        return module.check(load(file), target, other)

    return check


def test_a_pair_that_fits(checked):
    found = checked(shape={"hidden_size": 32})
    assert found.notes == ()
    assert found.shapes["target"].model_dump() == SHAPE
    assert found.shapes["draft"].hidden_size == 32


def test_logits_may_be_padded_to_different_widths(checked):
    found = checked(shape={"vocab_size": 14})
    assert found.notes == ("logits are padded to 16 (target) and 14 (draft) columns; both use 12 token ids",)


def test_fewer_logits_than_tokens_are_refused(checked):
    with pytest.raises(ModelError, match="the draft has 11 logits for 12 token ids"):
        checked(shape={"vocab_size": 11})


def test_other_vocabularies_are_refused(checked):
    with pytest.raises(ModelError, match=r"does not fit the target .* vocabulary size 12 and 13"):
        checked(tokens=13)


def test_other_special_tokens_are_refused(checked):
    with pytest.raises(ModelError, match=r"eos_token of .* is 'a', of .* 'b'"):
        checked(eos_token={"content": "b"})


def test_a_special_token_may_be_written_as_an_object(checked):
    assert checked(eos_token={"content": "a", "lstrip": False}).notes == ()


def test_other_chat_templates_are_noted_or_refused(checked, tmp_path):
    assert "the chat templates differ" in checked(chat_template="{{ messages }}").notes[0]
    for folder in ("target", "draft"):
        for file in sorted((tmp_path / folder).iterdir()):
            file.unlink()
        (tmp_path / folder).rmdir()
    with pytest.raises(ConfigError, match="chat_template: the target's and the draft's differ"):
        checked("context: 512", "context: 512\nchat_template: same", chat_template="{{ messages }}")


def test_the_family_must_be_the_models_own(checked):
    with pytest.raises(ConfigError, match=r"draft.family: .* has model_type 'qwen2', the recipe llama"):
        checked(model_type="qwen2")


def test_a_recipes_shape_must_be_the_models_own(checked):
    shape = {**SHAPE, "hidden_size": 32}
    with pytest.raises(ConfigError, match=r"draft.shape.hidden_size: is 32 in the recipe and 64 in "):
        checked("  tokens_per_block: 16", f"  shape: {json.dumps(shape)}")


def test_a_sequence_longer_than_the_model_is_refused(checked):
    with pytest.raises(ConfigError, match="context: 512 are above the draft's 511 tokens"):
        checked(shape={"max_position_embeddings": 511})


def test_the_targets_drafts_need_room_too(checked):
    with pytest.raises(ConfigError, match="context: 1022 and max_draft_len 4 are above the target's 1024"):
        checked("context: 512", "context: 1022")


def test_heads_that_cannot_be_shared_out(tmp_path):
    target = write_folder(tmp_path / "target", shape={"num_attention_heads": 3})
    draft = write_folder(tmp_path / "draft")
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(target=target, draft=draft))
    with pytest.raises(ConfigError, match="tensor_parallel: 2 does not divide 3 and 2 heads"):
        module.check(load(file), target, draft)


def test_dimensions_that_older_configurations_leave_out(tmp_path):
    folder = write_folder(tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    for name in ("num_key_value_heads", "head_dim", "tie_word_embeddings"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    shape = module.read_shape(folder)
    assert (shape.num_key_value_heads, shape.head_dim, shape.tie_word_embeddings) == (4, 16, False)
    (folder / "config.json").write_text('{"hidden_size": 64}')
    with pytest.raises(ModelError, match="lacks dimensions of a decoder"):
        module.read_shape(folder)

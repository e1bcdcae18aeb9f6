import sys
import types

import pytest

from wanspec.errors import ModelError
from wanspec.models import CATALOG, PAIRS, cached_folder, catalog, entry, is_ready, locate, resolve, verify

BUNDLED = [name for name, known in CATALOG.items() if known.kind == "bundled"]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_are_ready_and_as_shipped(name, cache):
    assert is_ready(name)
    assert verify(name) == resolve(name) == cached_folder(name)
    assert not cache.exists()


@pytest.mark.parametrize("known", CATALOG.values(), ids=list(CATALOG))
def test_every_bundled_file_has_its_hash(known):
    for file in known.files:
        locate.download.check_file(catalog.WEIGHTS / file.path, file)


def test_pairs_name_models_of_the_right_role():
    for target, draft in PAIRS.values():
        assert (entry(target).role, entry(draft).role) == ("target", "draft")


def test_the_weights_stay_small():
    assert sum(path.stat().st_size for path in catalog.WEIGHTS.rglob("*") if path.is_file()) < 40e6


@pytest.mark.parametrize(("name", "nearest"), [("smol-target", "small-target"), ("SmolLM2-Draft", "smollm2-draft")])
def test_a_misspelt_name_gets_a_suggestion(name, nearest):
    with pytest.raises(ModelError, match=nearest):
        resolve(name)


def test_a_strange_name_gets_the_list():
    with pytest.raises(ModelError, match="Known models: smollm2"):
        resolve("/nowhere/at/all")


def test_a_local_folder_is_checked(make_folder):
    folder = make_folder()
    assert resolve(folder) == folder
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"weights .* tokenizer\.json"):
        resolve(str(folder))


def test_a_model_that_is_not_there_yet_cannot_be_verified(cache):
    with pytest.raises(ModelError, match="wanspec models pull smollm2-draft"):
        verify("smollm2-draft")


def test_the_hub_is_asked_for_an_id(make_folder, monkeypatch):
    folder = make_folder()
    asked = []
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = lambda name, allow_patterns, local_dir: asked.append(name) or str(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert resolve("org/name") == folder
    assert asked == ["org/name"]


def test_a_hub_out_of_reach_is_a_clear_error(monkeypatch):
    def fail(name, allow_patterns, local_dir):
        raise ConnectionError("no\nroute")

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = fail
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ModelError, match=r"org/name could not be fetched .*no route.*local folder"):
        resolve("org/name")


def test_a_changed_file_of_the_cache_is_found_and_repaired(cache, make_folder, monkeypatch):
    def assemble(target, layers, folder):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_text("content")

    monkeypatch.setattr(locate.assemble, "assemble_draft", assemble)
    monkeypatch.setattr(locate, "_convert", lambda known, partial, on_progress: assemble(None, None, partial))
    folder = resolve("smollm2-draft")
    assert folder.is_relative_to(cache)
    assert verify("smollm2-draft") == folder
    (folder / "config.json").write_text("c0ntent")
    with pytest.raises(ModelError, match=r"config\.json .*pull --force"):
        verify("smollm2-draft")
    resolve("smollm2-draft", force=True)
    verify("smollm2-draft")

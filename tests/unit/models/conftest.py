import json

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("WANSPEC_CACHE", str(folder))
    return folder


@pytest.fixture
def make_folder(tmp_path):
    """Make small Hugging Face folders without real weights."""

    def make(name="model", *, tokens=("a", "b", "c"), merges=(), added=(), config=None, weights=b"w" * 100):
        folder = tmp_path / name
        folder.mkdir()
        tokenizer = {
            "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": list(merges)},
            "added_tokens": [{"id": i, "content": text, "special": special} for i, text, special in added],
        }
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "config.json").write_text(json.dumps(config or {"vocab_size": len(tokens), "eos_token_id": 0}))
        (folder / "model.safetensors").write_bytes(weights)
        return folder

    return make

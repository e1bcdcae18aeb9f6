"""What identifies a model, and whether a draft fits a target. Imports neither PyTorch nor transformers."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from wanspec.errors import ModelError
from wanspec.models.folders import check_folder, read_json, weight_files

_SAMPLES = 64
_SAMPLE_BYTES = 4096
# Where the folder came from and who wrote it does not change the model.
_IGNORED_CONFIG = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity of a model, as sent when a link is set up.

    ``tokenizer`` (32 bytes): SHA-256 over vocabulary, merges, added tokens and the special ids. ``vocab_size``: number
    of token ids of the tokenizer, highest id + 1; the model may pad its logits beyond it. ``model_id`` (32 bytes):
    SHA-256 over the configuration, and the layout and samples of the weights: it tells models apart, it is no proof of
    integrity (``verify`` is).
    """

    tokenizer: bytes
    vocab_size: int
    model_id: bytes


def fingerprint(folder: str | os.PathLike[str]) -> Fingerprint:
    """Return the fingerprint of a Hugging Face folder; raises ModelError if the folder is incomplete or unreadable."""
    path = check_folder(Path(folder))
    vocabulary = _Vocabulary.read(path)
    return Fingerprint(vocabulary.digest(), vocabulary.size, _model_id(path))


def check_pair(target: str | os.PathLike[str], draft: str | os.PathLike[str]) -> None:
    """Raise ModelError, naming both folders and the first difference, unless both use the same token ids.

    Compared are the size of the vocabulary, the token of every id, merges, added tokens and special ids. Logits padded
    to different sizes are fine, as in several families of models.
    """
    left, right = _Vocabulary.read(check_folder(Path(target))), _Vocabulary.read(check_folder(Path(draft)))
    if left.digest() == right.digest():
        return
    raise ModelError(
        f"model: the draft {draft} does not fit the target {target}: {left.difference(right)} (target, draft). "
        "Speculative decoding needs one tokenizer for both: choose a draft of the target's own family."
    )


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: dict[int, str]
    merges: list[list[str]]
    added: list[tuple[int, str, bool]]
    special: dict[str, list[int]]

    @classmethod
    def read(cls, folder: Path) -> _Vocabulary:
        tokenizer = read_json(folder / "tokenizer.json")
        try:
            model = tokenizer["model"]
            added = [(item["id"], item["content"], bool(item["special"])) for item in tokenizer["added_tokens"] or []]
            tokens = dict(_entries(model["vocab"])) | {token_id: content for token_id, content, _ in added}
            # Older files write a merge as one string, newer ones as a pair.
            merges = [item.split(" ", 1) if isinstance(item, str) else list(item) for item in model.get("merges") or []]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"model: {folder / 'tokenizer.json'} is no tokenizer file ({error!r}).") from error
        if not tokens:
            raise ModelError(f"model: {folder / 'tokenizer.json'} has no vocabulary.")
        return cls(tokens, merges, sorted(added), _special_ids(folder))

    @property
    def size(self) -> int:
        return max(self.tokens) + 1

    def digest(self) -> bytes:
        content = [sorted(self.tokens.items()), self.merges, self.added, sorted(self.special.items())]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).digest()

    def difference(self, other: _Vocabulary) -> str:
        """Return the first difference in words."""
        if self.size != other.size:
            return f"vocabulary size {self.size} and {other.size}"
        for token_id in sorted(self.tokens.keys() | other.tokens.keys()):
            mine, theirs = self.tokens.get(token_id), other.tokens.get(token_id)
            if mine != theirs:
                return f"token id {token_id} is {mine!r} and {theirs!r}"
        if self.added != other.added:
            return f"special tokens {sorted(set(self.added) ^ set(other.added))[0]} in one of them only"
        for name in sorted(self.special.keys() | other.special.keys()):
            if self.special.get(name) != other.special.get(name):
                return f"special token {name} is {self.special.get(name)} and {other.special.get(name)}"
        return "their merges"


def _entries(vocab: Any) -> Iterator[tuple[int, str]]:
    if isinstance(vocab, dict):
        yield from ((int(token_id), token) for token, token_id in vocab.items())
    else:  # unigram models: a list of (token, score)
        yield from ((token_id, item[0]) for token_id, item in enumerate(vocab))


def _special_ids(folder: Path) -> dict[str, list[int]]:
    config = read_json(folder / "config.json")
    special = {}
    for name in ("bos_token_id", "eos_token_id"):
        value = config.get(name)
        if value is not None:
            special[name] = sorted(value) if isinstance(value, list) else [int(value)]
    return special


def _model_id(folder: Path) -> bytes:
    config = read_json(folder / "config.json")
    kept = {name: value for name, value in config.items() if name not in _IGNORED_CONFIG}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in weight_files(folder):
        with path.open("rb") as file:
            _add_samples(digest, file, path.stat().st_size)
    return digest.digest()


def sample_digest(files: Iterable[Path]) -> str:
    """SHA-256 over size and samples of files, in hexadecimal: quick for weights, and no proof of integrity."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            _add_samples(digest, file, path.stat().st_size)
    return digest.hexdigest()


def _add_samples(digest: hashlib._Hash, file: BinaryIO, size: int) -> None:
    digest.update(struct.pack("<Q", size))
    for sample in range(_SAMPLES):
        file.seek(size * sample // _SAMPLES)
        digest.update(file.read(_SAMPLE_BYTES))

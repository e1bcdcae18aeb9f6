"""Files of conversations: flat arrays with offsets, written under another name and renamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.smollm2.conversations import Conversation


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation of n tokens, of which m are learned.

    ``tokens`` [n]; ``positions`` [m] of the learned tokens; ``top_ids`` and ``top_log_probs`` [m, 16]: the target's
    best candidates for each of them.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    top_ids: torch.Tensor
    top_log_probs: torch.Tensor


def write_shard(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write the conversations that have something to learn."""
    kept = [conversation for conversation in conversations if conversation.learned]
    if not kept:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "tokens": torch.tensor([token for c in kept for token in c.tokens], dtype=torch.int32),
        "positions": torch.tensor([position for c in kept for position in c.learned], dtype=torch.int32),
        "top_ids": torch.tensor([ids for c in kept for ids in c.top_ids], dtype=torch.int32),
        "top_log_probs": torch.tensor([values for c in kept for values in c.top_log_probs], dtype=torch.float16),
        "token_counts": torch.tensor([len(c.tokens) for c in kept], dtype=torch.int32),
        "learned_counts": torch.tensor([len(c.learned) for c in kept], dtype=torch.int32),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


def read_shards(folder: Path) -> list[Example]:
    """Return the examples of every shard in ``folder``, in a fixed order."""
    examples: list[Example] = []
    for path in sorted(folder.glob("*.safetensors")):
        shard = load_file(path)
        tokens = shard["tokens"].long().split(shard["token_counts"].tolist())  # type: ignore[no-untyped-call]
        counts = shard["learned_counts"].tolist()
        columns = [shard[name].split(counts) for name in ("positions", "top_ids", "top_log_probs")]  # type: ignore[no-untyped-call]
        for row, positions, ids, values in zip(tokens, *columns, strict=True):
            examples.append(Example(row, positions.long(), ids.long(), values.float()))
    return examples

"""Ragged batches: what one forward pass computes, a segment a sequence, all tokens in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.engines.kv_cache import KVBuffer

CAUSAL_KERNEL_ROWS = 64
"""From this many new tokens on, the causal kernel (half the work) beats packing the query heads of a group."""


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one sequence in one forward pass.

    Attributes:
        tokens: the new tokens, ``n`` of them, never empty.
        buffer: where their keys and values go, large enough already.
        positions: int64 [n], rotary positions.
        slots: where in the buffer each token goes: a slice, or int64 [n].
        visible: attention looks at slots ``[0, visible)``.
        mask: bool [n, visible], True where a token may look; None where causal order over the slots says it.
        wanted: int64 rows (of the ``n``) whose logits are wanted, in the order they are returned.
    """

    tokens: Sequence[int] | NDArray[np.int32]
    buffer: KVBuffer
    positions: NDArray[np.int64]
    slots: slice | NDArray[np.int64]
    visible: int
    mask: NDArray[np.bool_] | None
    wanted: NDArray[np.int64]


def append_segment(buffer: KVBuffer, start: int, tokens: Sequence[int] | NDArray[np.int32], wanted: int) -> Segment:
    """Segment that appends ``tokens`` after ``start`` cached ones; logits of the last ``wanted`` rows are returned."""
    count = len(tokens)
    stop = start + count
    return Segment(
        tokens=tokens,
        buffer=buffer,
        positions=np.arange(start, stop),
        slots=slice(start, stop),
        visible=stop,
        mask=None,
        wanted=np.arange(count - wanted, count),
    )


@dataclass(slots=True)
class Rows:
    """A segment made ready for the attention kernel: where its rows are and what they may see.

    Attributes:
        rows: its rows in the batch.
        keys: ``[layers, heads, visible, key_dim]``, a view of the buffer.
        values: ``[layers, heads, visible, value_dim]``, a view of the buffer.
        slots: a slice or int64 tensor, as in :class:`Segment`.
        causal: use the causal kernel (rows and keys are the same tokens).
        bias: ``[group * n, visible]``, 0 or -inf, added to the scores; None where all is visible.
    """

    rows: slice
    keys: torch.Tensor
    values: torch.Tensor
    slots: slice | torch.Tensor
    causal: bool
    bias: torch.Tensor | None


def ready_rows(segment: Segment, first_row: int, group: int) -> Rows:
    """Prepare a segment whose rows start at ``first_row`` of the batch; ``group`` query heads share a key head."""
    count, visible, buffer = len(segment.tokens), segment.visible, segment.buffer
    device = buffer.shape.device
    causal = segment.mask is None and count == visible and count >= CAUSAL_KERNEL_ROWS
    slots = segment.slots if isinstance(segment.slots, slice) else torch.from_numpy(segment.slots).to(device)
    return Rows(
        rows=slice(first_row, first_row + count),
        keys=buffer.keys[:, :, :visible],
        values=buffer.values[:, :, :visible],
        slots=slots,
        causal=causal,
        bias=None if causal else _bias(segment, group),
    )


def _bias(segment: Segment, group: int) -> torch.Tensor | None:
    count, visible, shape = len(segment.tokens), segment.visible, segment.buffer.shape
    if segment.mask is None:
        if count == 1:
            return None
        bias = torch.full((count, count), float("-inf"), dtype=shape.dtype, device=shape.device).triu_(1)
        bias = torch.nn.functional.pad(bias, (visible - count, 0))
    else:
        hidden = torch.from_numpy(~segment.mask).to(shape.device)
        bias = torch.zeros(hidden.shape, dtype=shape.dtype, device=shape.device).masked_fill_(hidden, float("-inf"))
    return bias.repeat(group, 1) if group > 1 else bias

"""Attention over ragged segments, handed to transformers as an attention implementation of its own.

Every segment attends to its own buffer by its own kernel call: nothing is padded or concatenated, and what a sequence
gets does not depend on its neighbours in the batch. transformers builds no mask for an implementation that registers
no mask function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone knows it by)

from wanspec.engines.segments import Rows
from wanspec.errors import ModelError

IMPLEMENTATION = "wanspec"
BATCH_ARGUMENT = "wanspec_batch"
_UNSUPPORTED_ARGUMENTS = ("softcap", "s_aux", "position_bias", "head_mask", "indices", "cache")


class AttentionBatch(Protocol):
    """What a forward pass carries to every attention layer."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        extra: Mapping[str, object],
    ) -> torch.Tensor:
        """Attend after rotary: query ``[1, heads, tokens, dim]``; returns ``[1, tokens, heads, dim]``."""
        ...


class RaggedAttention:
    """Attention of one forward pass over segments that own their buffers."""

    __slots__ = ("_segments",)

    def __init__(self, segments: Sequence[Rows]) -> None:
        self._segments = segments

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        extra: Mapping[str, object],
    ) -> torch.Tensor:
        """Write new keys and values to their buffers, then attend segment by segment."""
        if len(self._segments) == 1:
            return _attend_rows(self._segments[0], layer, query, key, value, scale).transpose(1, 2)
        out = query.new_empty((1, query.shape[2], query.shape[1], value.shape[3]))
        for segment in self._segments:
            rows = segment.rows
            part = _attend_rows(segment, layer, query[:, :, rows], key[:, :, rows], value[:, :, rows], scale)
            out[:, rows] = part.transpose(1, 2)
        return out


def _attend_rows(
    segment: Rows, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """One segment of one layer: ``[1, heads, n, dim]`` in and out."""
    keys, values = segment.keys[layer], segment.values[layer]
    keys[:, segment.slots] = key[0]
    values[:, segment.slots] = value[0]
    keys, values = keys.unsqueeze(0), values.unsqueeze(0)
    heads, count = query.shape[1], query.shape[2]
    group = heads // keys.shape[1]
    if segment.causal:
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale, enable_gqa=group > 1)
    if group == 1:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=segment.bias, scale=scale)
    # The query heads of a group become rows of one head: keys are read once a group and never expanded.
    packed = query.reshape(1, keys.shape[1], group * count, query.shape[3])
    out = F.scaled_dot_product_attention(packed, keys, values, attn_mask=segment.bias, scale=scale)
    return out.view(1, heads, count, values.shape[3])


class AttentionProbe:
    """Plain causal attention that records what the model asks of attention, and refuses what is not supported."""

    def __init__(self, context: int) -> None:
        self.context = context
        self.layers: dict[int, tuple[int, int, int, int]] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        extra: Mapping[str, object],
    ) -> torch.Tensor:
        """Record the shapes of a layer and attend causally.

        Raises:
            ModelError: the layer uses a feature that ragged attention lacks.
        """
        for name in _UNSUPPORTED_ARGUMENTS:
            if extra.get(name) is not None:
                raise ModelError(f"attention feature {name!r} (layer {layer}) is not supported by the PyTorch engine")
        window = extra.get("sliding_window")
        if isinstance(window, int) and window < self.context:
            raise ModelError(
                f"sliding-window attention (window {window}, layer {layer}) is not supported beyond the window: "
                f"set max_seq_len to at most {window}"
            )
        self.layers[layer] = (query.shape[1], key.shape[1], key.shape[3], value.shape[3])
        group = query.shape[1] // key.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=group > 1)
        return out.transpose(1, 2)


def _attention_function(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """The signature that transformers calls; everything is in the batch that came down with the forward call."""
    batch = cast("AttentionBatch | None", kwargs.get(BATCH_ARGUMENT))
    if batch is None:
        raise ModelError("the model does not hand keyword arguments down to its attention layers: not supported")
    scale = scaling if scaling is not None else float(query.shape[-1]) ** -0.5
    layer = cast(int, module.layer_idx)
    return batch.attend(layer, query, key, value, scale, kwargs), None


def register() -> None:
    """Make the implementation known to transformers; calling it again is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, _attention_function)

"""The KV cache of one sequence: preallocated keys and values of every layer, grown by doubling."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wanspec.errors import EngineError

MIN_CAPACITY = 64
DEFAULT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one cached token of a model looks like.

    Attributes:
        layers: attention layers.
        heads: key/value heads (fewer than query heads in grouped-query attention).
        key_dim: size of one key.
        value_dim: size of one value.
        context: most tokens a buffer may hold.
        dtype: of keys and values.
        device: where they are kept.
    """

    layers: int
    heads: int
    key_dim: int
    value_dim: int
    context: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of cache that one token takes over all layers."""
        return self.layers * self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


def default_kv_tokens(shape: KVShape) -> int:
    """Return how many tokens of KV cache an engine keeps unless told otherwise: 4 GiB of them, four contexts at least.

    Sequences between two rounds are kept too: with too small a budget each round would compute its whole prefix again.
    """
    return max(4 * shape.context, DEFAULT_BYTES // shape.token_bytes)


class KVBuffer:
    """Keys ``[layers, heads, capacity, key_dim]`` and values ``[layers, heads, capacity, value_dim]`` of one sequence.

    A buffer knows nothing of tokens: which slots are meaningful is its owner's affair. Slots never written hold zeros,
    so that masked attention over them stays finite.
    """

    __slots__ = ("capacity", "keys", "shape", "values")

    def __init__(self, shape: KVShape, capacity: int = MIN_CAPACITY) -> None:
        if capacity > shape.context:
            raise EngineError(f"KV cache: {capacity} tokens asked for, the buffer's limit is {shape.context}")
        self.shape = shape
        self.capacity = capacity
        self.keys, self.values = self._allocate(capacity)

    def _allocate(self, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = self.shape
        keys, values = (
            torch.zeros((shape.layers, shape.heads, capacity, dim), dtype=shape.dtype, device=shape.device)
            for dim in (shape.key_dim, shape.value_dim)
        )
        return keys, values

    def reserve(self, tokens: int, keep: int) -> None:
        """Make room for ``tokens`` tokens, keeping the first ``keep`` slots.

        Raises:
            EngineError: ``tokens`` is beyond the context.
        """
        if tokens <= self.capacity:
            return
        if tokens > self.shape.context:
            raise EngineError(f"KV cache: {tokens} tokens asked for, the buffer's limit is {self.shape.context}")
        capacity = min(grown_capacity(self.capacity, tokens), self.shape.context)
        keys, values = self._allocate(capacity)
        keys[:, :, :keep] = self.keys[:, :, :keep]
        values[:, :, :keep] = self.values[:, :, :keep]
        self.keys, self.values, self.capacity = keys, values, capacity

    def copy_prefix(self, source: KVBuffer, length: int) -> None:
        """Copy the first ``length`` slots of ``source`` into the same slots of this buffer."""
        self.keys[:, :, :length] = source.keys[:, :, :length]
        self.values[:, :, :length] = source.values[:, :, :length]

    def copy_slots(self, source: KVBuffer, slots: list[int]) -> None:
        """Copy these slots of ``source`` into the first slots of this buffer, in this order."""
        index = torch.as_tensor(slots, device=self.shape.device)
        self.keys[:, :, : len(slots)] = source.keys.index_select(2, index)
        self.values[:, :, : len(slots)] = source.values.index_select(2, index)


def grown_capacity(capacity: int, tokens: int) -> int:
    """Capacity after growth to hold ``tokens``: at least doubled, so that copying costs O(1) a token."""
    return max(tokens, 2 * capacity, MIN_CAPACITY)

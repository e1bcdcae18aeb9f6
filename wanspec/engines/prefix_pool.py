"""Prefix reuse between requests, with the visible behaviour of TensorRT-LLM's KV cache manager.

A later request reuses the longest common prefix of requests that have *ended* (TENSORRT_LLM.md section 2, "KV reuse");
the last prompt token is always recomputed, for its logits. Least recently used prefixes are evicted to stay within a
budget of tokens. Blocks exist only as the unit in which TensorRT-LLM counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanspec.engines.kv_cache import KVBuffer, KVShape, grown_capacity
from wanspec.errors import ConfigError, EngineError

TOKENS_PER_BLOCK = 32
"""TensorRT-LLM's default (PluginConfig.tokens_per_block)."""

IN_PLACE_LOSS = TOKENS_PER_BLOCK
"""Up to this many tokens of an ended request are given up to reuse its buffer in place instead of copying."""

Tokens = NDArray[np.int32]


@dataclass(slots=True, eq=False)
class _Entry:
    buffer: KVBuffer
    tokens: Tokens
    """Computed by ended requests: what others may reuse."""
    busy: bool


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """A buffer lent to one request; its first ``reused`` slots hold the prompt's first tokens already."""

    entry: _Entry
    reused: int

    @property
    def buffer(self) -> KVBuffer:
        """The request's KV buffer."""
        return self.entry.buffer


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Blocks of one request, as TensorRT-LLM's performance outputs name them."""

    alloc_new: int
    reused: int
    alloc_total: int


def count_blocks(reused_tokens: int, total_tokens: int) -> BlockCounts:
    """Blocks of a request of ``total_tokens``; a partly matching block counts as reused, and as allocated (a copy)."""
    total = -(-total_tokens // TOKENS_PER_BLOCK)
    reused = -(-reused_tokens // TOKENS_PER_BLOCK)
    return BlockCounts(alloc_new=total - reused, reused=reused, alloc_total=total - reused_tokens // TOKENS_PER_BLOCK)


class PrefixPool:
    """KV buffers of ended and running requests under one budget. Not thread-safe: one engine owns it."""

    def __init__(self, shape: KVShape, budget_tokens: int) -> None:
        """Create an empty pool.

        Raises:
            ConfigError: the budget does not hold one sequence of full length.
        """
        if budget_tokens < shape.context:
            raise ConfigError(
                "kv_tokens", f"{budget_tokens} tokens do not hold one sequence of {shape.context}: raise kv_tokens"
            )
        self._shape = shape
        self._budget = budget_tokens
        self._entries: list[_Entry] = []  # least recently used first

    @property
    def allocated_tokens(self) -> int:
        """Capacity of all buffers together, in tokens."""
        return sum(entry.buffer.capacity for entry in self._entries)

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks that requests hold, and all there are; from any thread."""
        held = sum(-(-entry.buffer.capacity // TOKENS_PER_BLOCK) for entry in list(self._entries) if entry.busy)
        return held, self._budget // TOKENS_PER_BLOCK

    def acquire(self, prompt: Tokens, total: int) -> Lease | None:
        """Lend a buffer for ``total`` tokens that starts with as much of ``prompt`` as is cached.

        Returns:
            None while running requests hold the room that this one needs: try again when one has ended.

        Raises:
            EngineError: ``total`` is beyond the context.
        """
        if total > self._shape.context:
            raise EngineError(f"KV cache: {total} tokens asked for, the context is {self._shape.context}")
        source, matched = self._longest_match(prompt)
        if source is not None and not source.busy and len(source.tokens) - matched <= IN_PLACE_LOSS:
            lease = self._take(source, matched, total)
            if lease is not None:
                return lease
        return self._copy(source, matched, total)

    def release(self, lease: Lease, tokens: Tokens) -> None:
        """End a request: the first ``len(tokens)`` slots of its buffer, which hold ``tokens``, become reusable."""
        entry = lease.entry
        entry.tokens, entry.busy = tokens, False
        self._entries.remove(entry)
        self._entries.append(entry)

    def discard(self, lease: Lease) -> None:
        """End a request whose buffer is not to be trusted (a failed pass)."""
        self._entries.remove(lease.entry)

    def _longest_match(self, prompt: Tokens) -> tuple[_Entry | None, int]:
        best, matched = None, 0
        for entry in reversed(self._entries):
            length = common_prefix(entry.tokens, prompt[:-1])
            if length > matched or (length == matched and best is not None and best.busy and not entry.busy):
                best, matched = entry, length
        return best, matched

    def _take(self, entry: _Entry, matched: int, total: int) -> Lease | None:
        capacity = entry.buffer.capacity
        if total > capacity:
            grown = min(grown_capacity(capacity, total), self._shape.context)
            if not self._make_room(grown - capacity, keep=entry):
                return None
            entry.buffer.reserve(total, keep=matched)
        entry.tokens, entry.busy = entry.tokens[:matched], True
        return Lease(entry, matched)

    def _copy(self, source: _Entry | None, matched: int, total: int) -> Lease | None:
        capacity = min(grown_capacity(0, total), self._shape.context)
        if not self._make_room(capacity, keep=source):
            if source is None or source.busy:
                return None
            # No room beside the source: it is the one that gives way, so its prefix is used where it is.
            if source.buffer.capacity >= total:
                return self._take(source, matched, total)
            self._entries.remove(source)
            if not self._make_room(capacity, keep=None):
                self._entries.insert(0, source)
                return None
        entry = _Entry(KVBuffer(self._shape, capacity), np.zeros(0, dtype=np.int32), busy=True)
        if source is not None and matched:
            entry.buffer.copy_prefix(source.buffer, matched)
            entry.tokens = source.tokens[:matched]
        self._entries.append(entry)
        return Lease(entry, matched)

    def _make_room(self, tokens: int, keep: _Entry | None) -> bool:
        """Evict idle entries, oldest first, until ``tokens`` more fit; evict nothing if that cannot be reached."""
        missing = self.allocated_tokens + tokens - self._budget
        victims = []
        for entry in self._entries:
            if missing <= 0:
                break
            if entry is not keep and not entry.busy:
                victims.append(entry)
                missing -= entry.buffer.capacity
        if missing > 0:
            return False
        for entry in victims:
            self._entries.remove(entry)
        return True


def common_prefix(left: Tokens, right: Tokens) -> int:
    """Length of the longest common prefix of two token arrays."""
    length = min(len(left), len(right))
    if length == 0 or left[0] != right[0]:
        return 0
    different = left[:length] != right[:length]
    first = int(different.argmax())
    return first if different[first] else length

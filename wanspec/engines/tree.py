"""The worker's draft engine: tree attention over the leaves of many sequences in one pass."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.engines.contract import EngineLoad
from wanspec.engines.kv_cache import MIN_CAPACITY, KVBuffer, grown_capacity
from wanspec.engines.pace import NO_PACE, Pace
from wanspec.engines.prefix_pool import IN_PLACE_LOSS, TOKENS_PER_BLOCK, common_prefix
from wanspec.engines.ranking import rank_children, top_tokens
from wanspec.engines.segments import Segment
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree_cache import TreeCache, TreeRows
from wanspec.errors import EngineError

DEFAULT_TREE_SLOTS = 2048
LEAST_REUSE = 16
"""A shorter prefix is not worth taking an ended sequence's cache over."""
_ENDED_BYTES = 1 << 30


@dataclass(slots=True)
class _State:
    """``prefix`` belongs to the caller; its first ``cache.committed`` tokens are cached."""

    cache: TreeCache
    buffer: KVBuffer
    prefix: Sequence[int]


class TreeDraftEngine:
    """A :class:`~wanspec.core.drafting.DraftEngine` on a :class:`TorchModel`. One thread at a time.

    A pass computes the uncached tokens of each prefix, the uncached nodes of each path, and the leaves; everything
    computed keeps its KV cache while it can still be reached from the committed prefix. The prefixes of released
    sequences stay, within the budget, for new ones that begin alike.
    """

    def __init__(
        self,
        model: TorchModel,
        *,
        tree_slots: int = DEFAULT_TREE_SLOTS,
        kv_tokens: int | None = None,
        pace: Pace = NO_PACE,
    ) -> None:
        """Draft with ``model``.

        Args:
            model: the draft.
            tree_slots: cached tree nodes of one sequence, beyond its prefix; when they run out the tree is recomputed.
            kv_tokens: budget of KV cache over all sequences, those that have ended included; the least recently used
                are dropped. If None 32 contexts, of which ended ones get 1 GiB at most.
            pace: least duration of a pass.
        """
        self._model = model
        self._tree_slots = tree_slots
        self._shape = replace(model.kv_shape, context=model.context + tree_slots)
        self._budget = kv_tokens or 32 * model.context
        self._ended_budget = kv_tokens or _ENDED_BYTES // self._shape.token_bytes
        self._pace = pace
        self._states: OrderedDict[Hashable, _State] = OrderedDict()  # least recently used first
        self._ended: list[tuple[NDArray[np.int32], _State]] = []  # with their tokens; least recently used first

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._model.vocab_size

    @property
    def context(self) -> int:
        """Longest sequence in tokens, drafts included."""
        return self._model.context

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        """Run one forward pass over all leaves and return the ``top`` best children of each.

        Raises:
            EngineError: a sequence with its leaves is beyond the context, or the pass failed.
        """
        started = time.monotonic_ns()
        self._check(batch, top)
        computed: list[int] = []
        try:
            plans = [self._plan(sequence, computed) for sequence in batch]
            expansion = self._run(batch, plans, top, started)
        except Exception as error:
            # Slots were given out but hold nothing: forget them.
            for sequence in batch:
                self._states.pop(sequence.key, None)
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"the draft pass failed: {type(error).__name__}: {error}") from error
        self._evict({sequence.key for sequence in batch})
        return replace(expansion, computed=tuple(computed))

    def release(self, key: Hashable) -> None:
        """A sequence has ended: its tree is forgotten, its prefix may serve others; unknown keys are ignored."""
        state = self._states.pop(key, None)
        if state is not None and state.cache.committed:
            state.cache.prune()
            self._ended.append((np.asarray(state.prefix[: state.cache.committed], dtype=np.int32), state))

    @property
    def kept_tokens(self) -> int:
        """Tokens of released sequences that are cached still."""
        return sum(len(tokens) for tokens, _ in self._ended)

    @property
    def load(self) -> EngineLoad:
        """Open sequences and the KV cache they hold, prefixes and trees; from any thread."""
        states = list(self._states.values())
        held = sum(-(-state.buffer.capacity // TOKENS_PER_BLOCK) for state in states)
        return EngineLoad(len(states), 0, held, self._budget // TOKENS_PER_BLOCK, TOKENS_PER_BLOCK)

    def cached_slots(self, key: Hashable) -> int:
        """KV slots in use by a sequence, prefix and tree; 0 for an unknown key."""
        state = self._states.get(key)
        return state.cache.used if state is not None else 0

    def _check(self, batch: Sequence[SequenceLeaves], top: int) -> None:
        if not batch:
            raise EngineError("expand: the batch is empty: pass at least one sequence")
        if not 1 <= top <= self.vocab_size:
            raise EngineError(f"expand: top is {top}: must be from 1 to the vocabulary's {self.vocab_size}")
        if len({sequence.key for sequence in batch}) != len(batch):
            raise EngineError("expand: a sequence occurs twice in one batch: merge its leaves")
        for sequence in batch:
            if not 1 <= sequence.length <= len(sequence.prefix) or not sequence.leaves:
                raise EngineError(
                    f"expand: length {sequence.length} and {len(sequence.leaves)} leaves: both must be 1+"
                )
            longest = sequence.length + max(map(len, sequence.leaves))
            if longest > self.context:
                raise EngineError(
                    f"expand: prefix and leaf are {longest} tokens, the draft's context is {self.context}"
                )

    def _plan(self, sequence: SequenceLeaves, computed: list[int]) -> Segment:
        """Lay out a sequence's part of a pass; how many tokens of its prefix it computes is added to ``computed``."""
        state = self._state(sequence)
        cache, prefix, length = state.cache, sequence.prefix, sequence.length
        cache.commit(prefix[cache.committed : length])
        new_tokens = list(prefix[cache.committed : length])
        nodes = sum(map(len, sequence.leaves))
        limit = self.context + self._tree_slots
        if cache.used + len(new_tokens) + nodes > limit:
            cache.prune()
        if cache.used + len(new_tokens) + nodes > limit:
            nodes = _distinct(sequence.leaves)  # paths share their beginnings
        if cache.used + len(new_tokens) + nodes > limit:
            raise EngineError(f"expand: {nodes} tree nodes in one pass: raise tree_slots above {self._tree_slots}")
        computed.append(len(new_tokens))
        keep = cache.high
        rows = cache.rows(new_tokens, sequence.leaves)
        state.buffer.reserve(rows.visible, keep=keep)
        return _segment(rows, state.buffer)

    def _state(self, sequence: SequenceLeaves) -> _State:
        """The cache of a sequence; a new one, that begins with what an ended one has, if it is not for this prefix."""
        state = self._states.get(sequence.key)
        if state is not None:
            self._states.move_to_end(sequence.key)
            known = state.cache.committed
            if known <= sequence.length and (known == 0 or sequence.prefix[known - 1] == state.cache.last_token):
                state.prefix = sequence.prefix
                return state
        self._states.pop(sequence.key, None)
        state = self._states[sequence.key] = self._begun(sequence)
        return state

    def _begun(self, sequence: SequenceLeaves) -> _State:
        """A new state with as much of the sequence's prefix as an ended one has: taken over from it, or copied."""
        wanted = np.asarray(sequence.prefix[: sequence.length], dtype=np.int32)
        matches = [common_prefix(tokens, wanted) for tokens, _ in self._ended]
        best = max(range(len(matches)), key=matches.__getitem__, default=None)
        if best is None or matches[best] < LEAST_REUSE:
            return _State(TreeCache(), self._buffer(MIN_CAPACITY), sequence.prefix)
        length, (tokens, source) = matches[best], self._ended.pop(best)
        if len(tokens) - length <= IN_PLACE_LOSS:
            source.cache.truncate(length)
            source.cache.last_token = int(wanted[length - 1])
            return _State(source.cache, source.buffer, sequence.prefix)
        self._ended.append((tokens, source))
        cache, slots = source.cache.copied(length)
        cache.last_token = int(wanted[length - 1])
        state = _State(cache, self._buffer(grown_capacity(0, length)), sequence.prefix)
        state.buffer.copy_slots(source.buffer, slots)
        return state

    def _buffer(self, capacity: int) -> KVBuffer:
        return KVBuffer(self._shape, min(capacity, self._shape.context))

    @torch.inference_mode()
    def _run(self, batch: Sequence[SequenceLeaves], plans: list[Segment], top: int, started: int) -> Expansion:
        logits = self._model.forward(plans)
        if all(sequence.sampling is None or sequence.sampling.greedy for sequence in batch):
            ids, log_probs, entropies = top_tokens(logits, top)
            expansion = Expansion(
                ids.cpu().numpy().astype(np.int32),
                log_probs.float().cpu().numpy(),
                entropies.float().cpu().numpy(),
                0.0,
            )
        else:
            wide = logits if logits.dtype == torch.float64 else logits.float()
            expansion = rank_children(wide.cpu().numpy(), batch, top)
        ended = self._pace.wait(started, sum(len(plan.tokens) for plan in plans))
        return replace(expansion, engine_ms=(ended - started) / 1e6)

    def _evict(self, active: set[Hashable]) -> None:
        """Keep to the budget: ended sequences go first, then the least recently used."""
        total = sum(state.buffer.capacity for state in self._states.values())
        ended = sum(state.buffer.capacity for _, state in self._ended)
        while self._ended and (total + ended > self._budget or ended > self._ended_budget):
            ended -= self._ended.pop(0)[1].buffer.capacity
        total += ended
        for key in list(self._states):
            if total <= self._budget:
                return
            if key not in active:
                total -= self._states.pop(key).buffer.capacity


def _segment(rows: TreeRows, buffer: KVBuffer) -> Segment:
    whole = rows.mask is None
    return Segment(
        tokens=rows.tokens,
        buffer=buffer,
        positions=rows.positions,
        slots=slice(0, rows.visible) if whole else rows.slots,
        visible=rows.visible,
        mask=rows.mask,
        wanted=rows.leaf_rows,
    )


def _distinct(leaves: Sequence[tuple[int, ...]]) -> int:
    """Count the nodes of the tree that paths make."""
    return len({leaf[:depth] for leaf in leaves for depth in range(1, len(leaf) + 1)})

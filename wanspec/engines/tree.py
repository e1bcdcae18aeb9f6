"""The worker's draft engine: tree attention over the leaves of many sequences in one pass."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.engines.kv_cache import MIN_CAPACITY, KVBuffer
from wanspec.engines.pace import NO_PACE, Pace
from wanspec.engines.ranking import rank_children, top_tokens
from wanspec.engines.segments import Segment
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree_cache import TreeCache, TreeRows
from wanspec.errors import EngineError

DEFAULT_TREE_SLOTS = 2048


@dataclass(slots=True)
class _State:
    cache: TreeCache
    buffer: KVBuffer


class TreeDraftEngine:
    """A :class:`~wanspec.core.drafting.DraftEngine` on a :class:`TorchModel`. One thread at a time.

    A pass computes the uncached tokens of each prefix, the uncached nodes of each path, and the leaves; everything
    computed keeps its KV cache while it can still be reached from the committed prefix.
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
            kv_tokens: budget of KV cache over all sequences; the least recently used are dropped. 32 contexts if None.
            pace: least duration of a pass.
        """
        self._model = model
        self._tree_slots = tree_slots
        self._shape = replace(model.kv_shape, context=model.context + tree_slots)
        self._budget = kv_tokens or 32 * model.context
        self._pace = pace
        self._states: OrderedDict[Hashable, _State] = OrderedDict()  # least recently used first

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
        try:
            plans = [self._plan(sequence) for sequence in batch]
            expansion = self._run(batch, plans, top, started)
        except Exception as error:
            # Slots were given out but hold nothing: forget them.
            for sequence in batch:
                self.release(sequence.key)
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"the draft pass failed: {type(error).__name__}: {error}") from error
        self._evict({sequence.key for sequence in batch})
        return expansion

    def release(self, key: Hashable) -> None:
        """Forget the KV cache of a sequence; unknown keys are ignored."""
        self._states.pop(key, None)

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

    def _plan(self, sequence: SequenceLeaves) -> Segment:
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
        keep = cache.high
        rows = cache.rows(new_tokens, sequence.leaves)
        state.buffer.reserve(rows.visible, keep=keep)
        return _segment(rows, state.buffer)

    def _state(self, sequence: SequenceLeaves) -> _State:
        """The cache of a sequence, emptied if the prefix is not the one it was made for."""
        state = self._states.get(sequence.key)
        if state is not None:
            self._states.move_to_end(sequence.key)
            known = state.cache.committed
            if known <= sequence.length and (known == 0 or sequence.prefix[known - 1] == state.cache.last_token):
                return state
        state = _State(TreeCache(), KVBuffer(self._shape, min(MIN_CAPACITY, self._shape.context)))
        self._states[sequence.key] = state
        return state

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
        total = sum(state.buffer.capacity for state in self._states.values())
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

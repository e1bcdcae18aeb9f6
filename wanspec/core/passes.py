"""A worker's draft passes: which leaves the next one expands, which is under way, and whether its result is usable."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from wanspec.core.config import WorkerConfig
from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.events import Expand
from wanspec.core.scheduler import Offer, fill, reach_probability, worthwhile
from wanspec.core.tree import Node
from wanspec.core.workersequence import Children, WorkerSequence

Items: TypeAlias = list[tuple[WorkerSequence, list[Node]]]


@dataclass(slots=True)
class Pass:
    """A pass: its leaves, how many, and when it was asked for.

    Attributes:
        chunk: a sequence of whose prompt it computes a part, as its first row, and up to which length.
        lengths: committed tokens of the sequences, the one of the chunk left out.
    """

    number: int
    began_ms: float
    items: Items
    leaves: int
    chunk: tuple[WorkerSequence, int] | None
    lengths: list[int]

    @property
    def sequences(self) -> list[WorkerSequence]:
        """Those with a part in it, in the order of the batch."""
        return [*([self.chunk[0]] if self.chunk else []), *(sequence for sequence, _ in self.items)]

    def count_computed(self, computed: tuple[int, ...]) -> None:
        """Take note of what has been computed of prompts; ``computed`` is as in :class:`Expansion`."""
        reached = [*([self.chunk[1]] if self.chunk else []), *self.lengths]
        told = len(computed) == len(reached)
        for index, (sequence, length) in enumerate(zip(self.sequences, reached, strict=True)):
            if sequence.passes == 0:
                sequence.prefilled += computed[index] if told else max(0, length - sequence.computed)
            sequence.computed = max(sequence.computed, length)


class Passes:
    """One pass at a time, over all sequences.

    Attributes:
        under_way: the one that the engine works on.
        engine_ms: how long the engine took for the last; infinity before the first.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.under_way: Pass | None = None
        self.engine_ms = inf
        self._config = config
        self._number = 0
        self._turn = 0

    def deadline(self) -> float:
        """When the pass under way is late, in ms; infinity if there is none."""
        return inf if self.under_way is None else self.under_way.began_ms + self._config.pass_ms

    def expected_end(self) -> float:
        """When the pass under way ends if it is as long as the last, in ms; infinity if there is none."""
        return inf if self.under_way is None else self.under_way.began_ms + self.engine_ms

    def begin(self, sequences: Collection[WorkerSequence], now: float) -> Expand | None:
        """Begin the next pass, if none is under way and a leaf is worth one."""
        if self.under_way is not None or not sequences:
            return None
        chunk = self._next_chunk(sequences)
        items = self._pick(sequences)
        if not items and chunk is None:
            return None
        self._number += 1
        batch, top, total = list[SequenceLeaves](), 1, 0
        if chunk is not None:
            sequence, length = chunk
            batch.append(SequenceLeaves(sequence.engine_key, sequence.tree.tokens, length, ((),)))
            total += 1
        for sequence, leaves in items:
            tree = sequence.tree
            paths = tuple(map(tree.path_to, leaves))
            batch.append(SequenceLeaves(sequence.engine_key, tree.tokens, sequence.length, paths, sequence.sampling))
            for leaf in leaves:
                leaf.expanded = True
            top = max(top, sequence.drafting.branching)
            total += len(leaves)
        lengths = [len(s.tree.tokens) for s, _ in items]
        self.under_way = Pass(self._number, now, items, total, chunk, lengths)
        return Expand(self._number, tuple(batch), top)

    def take(self, number: int) -> Pass | None:
        """The pass of this number, if it is the one under way: it is over then."""
        if self.under_way is None or self.under_way.number != number:
            return None
        done, self.under_way = self.under_way, None
        return done

    def take_late(self, now: float) -> Pass | None:
        """The pass under way, if it is late: it is given up."""
        return self.take(self._number) if now >= self.deadline() else None

    def _next_chunk(self, sequences: Collection[WorkerSequence]) -> tuple[WorkerSequence, int] | None:
        """The next part of the oldest prompt that is too long for one pass, so that no other waits for all of it."""
        most = self._config.prefill_tokens
        for sequence in sequences:
            if sequence.passes == 0:
                length = len(sequence.tree.tokens)
                if length - sequence.computed > most or (length > sequence.computed and not sequence.complete):
                    return sequence, min(length, sequence.computed + most)
        return None

    def _pick(self, sequences: Collection[WorkerSequence]) -> Items:
        """The leaves of the next pass: one of each sequence in turn, so that none starves, then the most probable."""
        config = self._config
        ready = [sequence for sequence in sequences if sequence.passes or self._ready(sequence)]
        if len(ready) == 1 and config.costs.flat:  # another leaf costs nothing
            leaves = Offer(ready[0], config.max_nodes, config.context).take(config.max_leaves)
            return [(ready[0], leaves)] if leaves else []
        items, offers, considered = Items(), list[Offer](), 0
        if ready:
            self._turn %= len(ready)
            ready = ready[self._turn :] + ready[: self._turn]
        for sequence in ready:
            considered += 1
            offer = Offer(sequence, config.max_nodes, config.context)
            leaves = offer.take(1)
            if leaves:
                items.append((sequence, leaves))
                offers.append(offer)
                if len(items) == config.max_leaves:
                    break
        self._turn += considered
        room = config.max_leaves - len(items)
        if items and room:
            self._widen(items, offers, room)
        return items

    def _widen(self, items: Items, offers: list[Offer], room: int) -> None:
        """Add the most probable leaves that are worth their cost."""
        roots = [sequence.tree.root for sequence, _ in items]
        first = [reach_probability(leaves[0], root) for (_, leaves), root in zip(items, roots, strict=True)]
        more, order = fill(offers, roots, room)
        context = sum(sequence.length for sequence, _ in items) / len(items)
        worth = worthwhile(first + [chance for chance, _ in order], self._config.costs, context)
        granted = [0] * len(items)
        for _, number in order[: max(0, worth - len(items))]:
            granted[number] += 1
        for (_, leaves), offer, further, count in zip(items, offers, more, granted, strict=True):
            leaves += further[:count]
            for leaf in further[count:]:
                offer.give_back(leaf)

    def _ready(self, sequence: WorkerSequence) -> bool:
        """Whether a sequence that has had no pass can begin to draft."""
        return sequence.complete and len(sequence.tree.tokens) - sequence.computed <= self._config.prefill_tokens


def read(result: Expansion, leaves: int, vocab_size: int) -> Children | None:
    """Take an engine's result out of its arrays; None if it cannot be what a pass over so many leaves gives."""
    shape, margins = result.tokens.shape, result.margins
    if len(shape) != 2 or not shape[1] or shape[0] != leaves or result.log_probs.shape != shape:
        return None
    if len(result.entropies) != leaves or (margins is not None and len(margins) != leaves):
        return None
    tokens: list[int] = result.tokens.ravel().tolist()
    log_probs: list[float] = result.log_probs.ravel().tolist()
    total = sum(log_probs)  # of values of at most 1: infinities do not cancel out, and only NaN makes it NaN
    usable = (
        min(tokens) >= 0
        and max(tokens) < vocab_size
        and max(log_probs) <= 1.0
        and total == total
        and (margins is None or bool((margins >= 0.0).all()))
        and 0.0 <= result.engine_ms < inf
    )
    if not usable:
        return None
    more = result.entropies.tolist(), None if margins is None else margins.tolist()
    return Children(result.tokens.tolist(), result.log_probs.tolist(), *more)

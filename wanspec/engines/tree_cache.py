"""Which KV slot holds which token of one sequence's token tree, and what each row of a pass may attend to.

Slots are scattered: a node keeps its slot from the pass that computed it until it is committed or pruned, so nothing is
ever moved. Bookkeeping only; no tensors.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Slots:
    """Hands out slot numbers, lowest first, so that the buffer's used part stays short."""

    __slots__ = ("_free", "high")

    def __init__(self) -> None:
        self._free: list[int] = []
        self.high = 0
        """One more than the highest slot ever in use."""

    @property
    def used(self) -> int:
        """Slots in use."""
        return self.high - len(self._free)

    def take(self) -> int:
        """Lend the lowest free slot."""
        if self._free:
            return heapq.heappop(self._free)
        self.high += 1
        return self.high - 1

    def give(self, slot: int) -> None:
        """Take a slot back."""
        heapq.heappush(self._free, slot)


@dataclass(frozen=True, slots=True)
class TreeRows:
    """The rows of one sequence in one pass.

    Attributes:
        tokens: of each row.
        positions: int64 [rows].
        slots: int64 [rows], where each row's keys and values go.
        visible: attention looks at slots ``[0, visible)``.
        mask: bool [rows, visible]; None where the rows are a whole prefix in slot order.
        leaf_rows: int64 [leaves], the row that answers for each leaf.
    """

    tokens: list[int]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    visible: int
    mask: NDArray[np.bool_] | None
    leaf_rows: NDArray[np.int64]


class TreeCache:
    """Slots of a committed prefix and of the tree below its last token.

    A trie of (parent slot, token) finds nodes again; slot -1 is the parent of the first token.
    """

    __slots__ = ("_children", "_committed", "_root", "_slots", "_token_slots", "last_token")

    def __init__(self) -> None:
        self._slots = Slots()
        self._children: dict[int, dict[int, int]] = {}
        self._committed: NDArray[np.bool_] = np.zeros(64, dtype=np.bool_)  # by slot
        self._token_slots: list[int] = []  # by position
        self._root = -1
        self.last_token = -1

    @property
    def committed(self) -> int:
        """Committed tokens whose keys and values are cached."""
        return len(self._token_slots)

    @property
    def used(self) -> int:
        """Slots in use, of committed tokens and of tree nodes."""
        return self._slots.used

    @property
    def high(self) -> int:
        """One more than the highest slot ever used: what of the buffer is worth keeping."""
        return self._slots.high

    def commit(self, tokens: Sequence[int]) -> None:
        """Walk the trie along newly committed tokens: hits keep their slots, all else below the old root is freed.

        ``committed`` then says how far the hits reached; what follows is to be computed (see :meth:`rows`).
        """
        for token in tokens:
            slot = self._children.get(self._root, {}).pop(token, None)
            self.prune()
            if slot is None:
                return
            self._append(token, slot)

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` committed tokens only, at least 1 of them; their last is ``last_token`` then."""
        self.prune()
        for slot in self._token_slots[length:]:
            self._committed[slot] = False
            self._slots.give(slot)
        del self._token_slots[length:]
        self._root = self._token_slots[-1]

    def copied(self, length: int) -> tuple[TreeCache, list[int]]:
        """A cache of the first ``length`` committed tokens in slots 0 onwards, and the slots that they have here."""
        copy = TreeCache()
        for _ in range(length):
            copy._append(-1, copy._slots.take())
        return copy, self._token_slots[:length]

    def prune(self) -> None:
        """Free every node below the last committed token."""
        pending = list(self._children.pop(self._root, {}).values())
        while pending:
            slot = pending.pop()
            self._slots.give(slot)
            pending += self._children.pop(slot, {}).values()

    def rows(self, new_tokens: Sequence[int], leaves: Sequence[tuple[int, ...]]) -> TreeRows:
        """Lay out a pass: uncached prefix tokens, uncached nodes of each path, and the last node of each path.

        A leaf whose last node is cached is computed again in its slot, for its logits.
        """
        rows = _RowList()
        start = self.committed
        for token in new_tokens:
            slot = self._slots.take()
            self._append(token, slot)
            rows.add(token, self.committed - 1, slot, ())
        leaf_rows = [self._leaf_row(path, rows) for path in leaves]
        slots = np.asarray(rows.slots, dtype=np.int64)
        whole = start == 0 and len(rows.slots) == self.committed == self._slots.high
        return TreeRows(
            tokens=rows.tokens,
            positions=np.asarray(rows.positions, dtype=np.int64),
            slots=slots,
            visible=self._slots.high,
            mask=None if whole else self._mask(rows, len(new_tokens)),
            leaf_rows=np.asarray(leaf_rows, dtype=np.int64),
        )

    def _leaf_row(self, path: tuple[int, ...], rows: _RowList) -> int:
        """Row of the last node of ``path``; adds rows for the nodes that are not cached."""
        slot = self._root
        ancestors: list[int] = []
        for token in path:
            children = self._children.setdefault(slot, {})
            node = children.get(token)
            if node is None:
                node = children[token] = self._slots.take()
                rows.add(token, self.committed + len(ancestors), node, ancestors)
            slot = node
            ancestors.append(node)
        if slot not in rows.by_slot:
            token = path[-1] if path else self.last_token
            rows.add(token, self.committed + len(path) - 1, slot, ancestors[:-1])
        return rows.by_slot[slot]

    def _append(self, token: int, slot: int) -> None:
        if slot >= len(self._committed):
            grown = np.zeros(max(slot + 1, 2 * len(self._committed)), dtype=np.bool_)
            grown[: len(self._committed)] = self._committed
            self._committed = grown
        self._committed[slot] = True
        self._token_slots.append(slot)
        self._root, self.last_token = slot, token

    def _mask(self, rows: _RowList, new_tokens: int) -> NDArray[np.bool_]:
        visible = self._slots.high
        mask = np.zeros((len(rows.slots), visible), dtype=np.bool_)
        known = min(visible, len(self._committed))
        mask[:, :known] = self._committed[:known]
        new_slots = rows.slots[:new_tokens]
        mask[np.ix_(range(new_tokens), new_slots)] = np.tri(new_tokens, dtype=np.bool_)
        for row in range(new_tokens, len(rows.slots)):
            mask[row, rows.ancestors[row]] = True
            mask[row, rows.slots[row]] = True
        return mask


class _RowList:
    """Rows of a pass while they are being collected."""

    __slots__ = ("ancestors", "by_slot", "positions", "slots", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.ancestors: list[list[int]] = []
        self.by_slot: dict[int, int] = {}

    def add(self, token: int, position: int, slot: int, ancestors: Sequence[int]) -> None:
        self.by_slot[slot] = len(self.slots)
        self.tokens.append(token)
        self.positions.append(position)
        self.slots.append(slot)
        self.ancestors.append(list(ancestors))

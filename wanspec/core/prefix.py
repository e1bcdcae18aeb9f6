"""A chained hash of a token prefix, one value a length, so that two regions can compare what they have committed."""

from __future__ import annotations

from collections.abc import Iterable

_MASK = (1 << 64) - 1
_SEED = 0x57414E5350454331
_MULTIPLIER = 0x9E3779B97F4A7C15
_GLANCE = 16


def extend_hash(value: int, token: int) -> int:
    """Return the 64-bit hash of a prefix with hash ``value`` and one more token."""
    mixed = ((value ^ (token + 1)) * _MULTIPLIER) & _MASK
    return mixed ^ (mixed >> 29)


class PrefixHashes:
    """The hash at every length of one growing token sequence; ``hashes[0]`` is the hash of nothing."""

    __slots__ = ("_values",)

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._values = [_SEED]
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        value = self._values[-1]
        for token in tokens:
            value = extend_hash(value, token)
            self._values.append(value)

    def until(self, length: int) -> PrefixHashes:
        """A copy for the first ``length`` tokens."""
        copied = PrefixHashes()
        copied._values = self._values[: length + 1]
        return copied

    def common(self, other: PrefixHashes, most: int) -> int:
        """Length of the longest common prefix of two sequences, of their first ``most`` tokens."""
        mine, theirs = self._values, other._values
        low, high = 0, min(len(mine) - 1, len(theirs) - 1, most)
        if high > _GLANCE and mine[_GLANCE] != theirs[_GLANCE]:
            high = _GLANCE  # most prompts differ early: the search is short then
        while low < high:
            middle = (low + high + 1) // 2
            if mine[middle] == theirs[middle]:
                low = middle
            else:
                high = middle - 1
        return low

    def __getitem__(self, length: int) -> int:
        return self._values[length]

    def __len__(self) -> int:
        """Length of the hashed sequence in tokens."""
        return len(self._values) - 1

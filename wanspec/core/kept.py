"""Token prefixes of sequences that have ended, for later turns: those a worker has, and those a controller may name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from wanspec.core.config import ControllerConfig, WorkerConfig
from wanspec.core.events import Claims
from wanspec.core.prefix import PrefixHashes

if TYPE_CHECKING:
    from wanspec.core.sequence import Sequence as SequenceState


class _Entry(Protocol):
    """What is bounded: how many tokens it has, and when it was last of use, ms."""

    @property
    def size(self) -> int: ...

    @property
    def used_ms(self) -> float: ...


_NameT = TypeVar("_NameT")
_EntryT = TypeVar("_EntryT", bound=_Entry)


class _Recent(Generic[_NameT, _EntryT]):
    """Entries bounded in number, tokens and age: the least recently used go first.

    Attributes:
        total: tokens of all.
    """

    def __init__(self, config: WorkerConfig | ControllerConfig) -> None:
        self._limits = config
        self._entries: OrderedDict[_NameT, _EntryT] = OrderedDict()  # least recently used first
        self.total = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _add(self, name: _NameT, entry: _EntryT, now: float) -> None:
        """Add an entry under a name that has none."""
        self._entries[name] = entry
        self.total += entry.size
        self._trim(now)

    def _used(self, name: _NameT, entry: _EntryT) -> None:
        """Put the same entry, of use just now, in its own place."""
        self._entries[name] = entry
        self._entries.move_to_end(name)

    def _trim(self, now: float) -> None:
        limits = self._limits
        while self._entries:
            name, oldest = next(iter(self._entries.items()))
            fits = len(self._entries) <= limits.kept_sequences and self.total <= limits.kept_tokens
            if fits and now < oldest.used_ms + limits.kept_ms:
                return
            self._drop(name)

    def _drop(self, name: _NameT) -> None:
        self.total -= self._entries.pop(name).size


class Kept(NamedTuple):
    """Tokens of an ended sequence, their hashes, whose they are, and when they were last of use."""

    owner: bytes
    tokens: Sequence[int]
    hashes: PrefixHashes
    used_ms: float

    @property
    def size(self) -> int:
        """How many tokens."""
        return len(self.tokens)

    @property
    def digest(self) -> int:
        """Hash of all tokens."""
        return self.hashes[len(self.tokens)]


class KeptTokens(_Recent[int, Kept]):
    """What a worker has of ended sequences.

    A prefix is found by its owner, length and hash only, so a controller that is mistaken about it gets nothing.
    """

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        self._number = 0

    def keep(self, owner: bytes, tokens: Sequence[int], hashes: PrefixHashes, now: float) -> None:
        """Take the tokens of a sequence that has ended, not to be changed any more; earlier turns of it are dropped."""
        kept = Kept(owner, tokens, hashes, now)
        for number, entry in list(self._entries.items()):
            if entry.owner != owner:
                continue
            shorter, longer = (entry, kept) if len(entry.tokens) <= len(kept.tokens) else (kept, entry)
            if longer.hashes[len(shorter.tokens)] == shorter.digest:
                kept = longer._replace(used_ms=now)
                self._drop(number)
        self._number += 1
        self._add(self._number, kept, now)

    def find(self, owner: bytes, length: int, digest: int, now: float) -> Kept | None:
        """The tokens of a sequence of the owner whose first ``length`` tokens have this hash; None if there is none."""
        self._trim(now)
        for number, entry in reversed(self._entries.items()):
            if entry.owner == owner and length <= len(entry.tokens) and entry.hashes[length] == digest:
                self._used(number, entry._replace(used_ms=now))
                return entry
        return None


class _Sent(NamedTuple):
    """What was sent to the worker of a link of a sequence that has ended: so many of its tokens."""

    link: int
    hashes: PrefixHashes
    size: int
    used_ms: float


class SentPrefixes(_Recent[str | int, _Sent]):
    """What a controller has sent of ended sequences, by conversation where it has a name."""

    def __init__(self, config: ControllerConfig) -> None:
        super().__init__(config)
        self._config = config
        self._workers: dict[int, bytes] = {}
        self._number = 0

    def welcomed(self, link: int, worker: bytes) -> None:
        """A worker has introduced itself: if it is not the one before, it has nothing."""
        if self._workers.get(link, worker) != worker:
            for name in [name for name, entry in self._entries.items() if entry.link == link]:
                self._drop(name)
        self._workers[link] = worker

    def ended(self, sequence: SequenceState, now: float) -> None:
        """Take note of a sequence that has ended, if its worker had it to the end."""
        remote = sequence.remote
        if remote.kept and remote.link is not None:
            self.keep(sequence.request.conversation, remote.link, remote.hashes, remote.kept, now)

    def claims(self, sequence: SequenceState, now: float) -> Claims:
        """What workers should have of a new sequence: see :meth:`find`."""
        if not self._entries or not sequence.policy.uses_worker:
            return ()
        sequence.remote.hash_all()
        return self.find(sequence.request.conversation, sequence.remote.hashes, now)

    def keep(self, conversation: str, link: int, hashes: PrefixHashes, length: int, now: float) -> None:
        """Take note of a sequence that has ended; it takes the place of an earlier turn of its conversation."""
        if length < self._config.least_reuse:
            return
        self._number += 1
        name = conversation or self._number
        for other, entry in list(self._entries.items()):
            is_part = entry.size <= length and hashes[entry.size] == entry.hashes[entry.size]
            if other == name or (is_part and entry.link == link):
                self._drop(other)
        self._add(name, _Sent(link, hashes, length, now), now)

    def find(self, conversation: str, prompt: PrefixHashes, now: float) -> Claims:
        """What workers should have of a prompt: (link, tokens), for each link with any.

        The conversation's own earlier turn goes before longer ones of others.
        """
        self._trim(now)
        found = self._longest([conversation], prompt) or self._longest(list(self._entries), prompt)
        for _, name in found.values():
            self._used(name, self._entries[name]._replace(used_ms=now))
        return tuple((link, common) for link, (common, _) in found.items())

    def _longest(self, names: Iterable[str | int], prompt: PrefixHashes) -> dict[int, tuple[int, str | int]]:
        """By link: the longest prefix that one of these entries has in common with a prompt, and its name."""
        found: dict[int, tuple[int, str | int]] = {}
        for name in names:
            entry = self._entries.get(name)
            if entry is None:
                continue
            common = prompt.common(entry.hashes, entry.size)
            if common >= self._config.least_reuse and common > found.get(entry.link, (0, name))[0]:
                found[entry.link] = (common, name)
        return found

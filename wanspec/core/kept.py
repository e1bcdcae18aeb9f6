"""Token prefixes of sequences that have ended, for later turns: those a worker has, and those a controller may name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanspec.core.config import ControllerConfig, WorkerConfig
from wanspec.core.events import Claims
from wanspec.core.prefix import PrefixHashes

if TYPE_CHECKING:
    from wanspec.core.sequence import Sequence as SequenceState


class Kept(NamedTuple):
    """Tokens of an ended sequence, their hashes, whose they are, and when they were last of use."""

    owner: bytes
    tokens: Sequence[int]
    hashes: PrefixHashes
    used_ms: float

    @property
    def digest(self) -> int:
        """Hash of all tokens."""
        return self.hashes[len(self.tokens)]


class KeptTokens:
    """What a worker has of ended sequences: bounded in number, tokens and age, the least recently used go first.

    A prefix is found by its owner, length and hash only, so a controller that is mistaken about it gets nothing.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._entries: OrderedDict[int, Kept] = OrderedDict()  # least recently used first
        self._number = 0
        self.total = 0
        """Tokens kept."""

    def __len__(self) -> int:
        return len(self._entries)

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
        self._entries[self._number] = kept
        self.total += len(kept.tokens)
        self._trim(now)

    def find(self, owner: bytes, length: int, digest: int, now: float) -> Kept | None:
        """The tokens of a sequence of the owner whose first ``length`` tokens have this hash; None if there is none."""
        self._trim(now)
        for number, entry in reversed(self._entries.items()):
            if entry.owner == owner and length <= len(entry.tokens) and entry.hashes[length] == digest:
                self._entries[number] = entry._replace(used_ms=now)
                self._entries.move_to_end(number)
                return entry
        return None

    def _trim(self, now: float) -> None:
        config = self._config
        while self._entries:
            number, oldest = next(iter(self._entries.items()))
            fits = len(self._entries) <= config.kept_sequences and self.total <= config.kept_tokens
            if fits and now < oldest.used_ms + config.kept_ms:
                return
            self._drop(number)

    def _drop(self, number: int) -> None:
        self.total -= len(self._entries.pop(number).tokens)


class _Sent(NamedTuple):
    """What was sent to the worker of a link of a sequence that has ended: so many of its tokens."""

    link: int
    hashes: PrefixHashes
    length: int
    used_ms: float


class SentPrefixes:
    """What a controller has sent of ended sequences, by conversation where it has a name."""

    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._entries: OrderedDict[str | int, _Sent] = OrderedDict()  # least recently used first
        self._workers: dict[int, bytes] = {}
        self._number = 0
        self._total = 0

    def __len__(self) -> int:
        return len(self._entries)

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
            is_part = entry.length <= length and hashes[entry.length] == entry.hashes[entry.length]
            if other == name or (is_part and entry.link == link):
                self._drop(other)
        self._entries[name] = _Sent(link, hashes, length, now)
        self._total += length
        self._trim(now)

    def find(self, conversation: str, prompt: PrefixHashes, now: float) -> Claims:
        """What workers should have of a prompt: (link, tokens), for each link with any.

        The conversation's own earlier turn goes before longer ones of others.
        """
        self._trim(now)
        found = self._longest([conversation], prompt) or self._longest(list(self._entries), prompt)
        for _, name in found.values():
            self._entries[name] = self._entries[name]._replace(used_ms=now)
            self._entries.move_to_end(name)
        return tuple((link, common) for link, (common, _) in found.items())

    def _longest(self, names: Iterable[str | int], prompt: PrefixHashes) -> dict[int, tuple[int, str | int]]:
        """By link: the longest prefix that one of these entries has in common with a prompt, and its name."""
        found: dict[int, tuple[int, str | int]] = {}
        for name in names:
            entry = self._entries.get(name)
            if entry is None:
                continue
            common = prompt.common(entry.hashes, entry.length)
            if common >= self._config.least_reuse and common > found.get(entry.link, (0, name))[0]:
                found[entry.link] = (common, name)
        return found

    def _trim(self, now: float) -> None:
        config = self._config
        while self._entries:
            name, oldest = next(iter(self._entries.items()))
            fits = len(self._entries) <= config.kept_sequences and self._total <= config.kept_tokens
            if fits and now < oldest.used_ms + config.kept_ms:
                return
            self._drop(name)

    def _drop(self, name: str | int) -> None:
        self._total -= self._entries.pop(name).length

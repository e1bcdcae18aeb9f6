"""What a controller sends its workers after an event: messages of one moment together, prompts piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from wanspec.core.events import Action
from wanspec.core.link import Link
from wanspec.core.messages import Message
from wanspec.core.remote import RemoteDrafts
from wanspec.core.wire import split


def best_link(links: Sequence[Link], remote: RemoteDrafts, remotes: Iterable[RemoteDrafts], streams: int) -> int | None:
    """Number of the link to open a sequence on; None where none is up.

    That whose worker should have most of it already; or of the first worker that is there, the stream with the fewest.

    Args:
        links: all; ``streams`` to one worker stand in a row.
        remote: the sequence's.
        remotes: of all sequences.
        streams: links to one worker.
    """
    up = [link.number for link in links if link.up]
    known = max(up, key=lambda number: remote.claims.get(number, 0), default=None)
    if known is None or remote.claims.get(known):
        return known
    first = [number for number in up if number // streams == up[0] // streams]
    loads = Counter(other.link for other in remotes if other.open) if len(first) > 1 else Counter()
    return min(first, key=lambda number: loads[number])


def flush(remotes: Iterable[RemoteDrafts], links: Sequence[Link], now: float) -> list[Action]:
    """Send what sequences have to say; of long prompts as many pieces as their link has room for."""
    outgoing: dict[int, list[Message]] = {}
    uploading: dict[int, list[RemoteDrafts]] = {}
    for remote in remotes:
        if remote.link is None:
            continue
        outgoing.setdefault(remote.link, []).extend(remote.take())
        if remote.uploading:
            uploading.setdefault(remote.link, []).append(remote)
    actions: list[Action] = []
    for number, messages in outgoing.items():
        link = links[number]
        if link.up:
            actions += [link.send(group, now) for group in split(messages)]
            actions += _pieces(uploading.get(number, []), link, now)
    return actions


def _pieces(remotes: list[RemoteDrafts], link: Link, now: float) -> list[Action]:
    """One piece a frame, one after the other of each prompt: what others say goes between them."""
    actions: list[Action] = []
    while remotes and link.upload_room > 0:
        remote = remotes.pop(0)
        actions.append(link.send((remote.piece(),), now, piece=True))
        if remote.uploading:
            remotes.append(remote)
    return actions

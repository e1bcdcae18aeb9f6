"""What a controller sends its workers after an event: messages of one moment together, prompts piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanspec.core.events import Action
from wanspec.core.link import Link
from wanspec.core.messages import Message
from wanspec.core.remote import RemoteDrafts
from wanspec.core.wire import split


def best_link(links: Sequence[Link], remote: RemoteDrafts, streams: int) -> int | None:
    """Number of the link to open a sequence on; None where none is up.

    That whose worker should have half of it already, or most of that; or one to the first worker that is there, another
    for each sequence in turn. It depends on no other sequence, so that a log of this one repeats it.

    Args:
        links: all; ``streams`` to one worker stand in a row.
        remote: the sequence's.
        streams: links to one worker.
    """
    up = [link.number for link in links if link.up]
    known = max(up, key=lambda number: remote.claims.get(number, 0), default=None)
    if known is None or 2 * remote.claims.get(known, 0) >= remote.length:
        return known
    first = [number for number in up if number // streams == up[0] // streams]
    return first[remote.number % len(first)]


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

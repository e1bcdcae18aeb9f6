"""A controller's link as its worker sees it: what is to be sent to it, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from wanspec.core.events import Send
from wanspec.core.messages import MOST_NODES, Drafts, Frame, Header, Message, PassReport, Prefilled, microseconds
from wanspec.core.wire import encode, split

_FRAME_COST_MS = 0.25
"""About what it takes to hand a frame to Triton: a pass that ends within this time is worth waiting for."""


@dataclass(slots=True)
class Peer:
    """One controller's link.

    Attributes:
        link: number of the link.
        instance: UUID of the controller.
        echo: the controller's last ``sent``, microseconds of its clock.
        echo_received: when that came, microseconds of the worker's clock.
        urgent: what waits to be sent, or a reply that the controller asked for, waits for no other frame.
    """

    link: int
    instance: bytes
    echo: int
    echo_received: int
    urgent: bool = False
    _waiting: list[Message] = field(default_factory=list)
    _report: int | None = None
    _drafts: dict[int, int] = field(default_factory=dict)
    _frame_number: int = 0
    _drafts_sent_ms: float = -inf
    _waits_since_ms: float = inf

    def reply(self, message: Message) -> None:
        """Have a message sent with the next frame.

        What follows a message that waits joins it: drafts of the same sequence after the same prefix, the report of a
        later pass. Passes that are far shorter than the network's delays cost no message each.
        """
        if isinstance(message, Drafts) and self._joined(message):
            return
        if isinstance(message, PassReport):
            if self._report is not None and not message.prefills:
                self._waiting[self._report] = message
                return
            self._report = None if message.prefills else len(self._waiting)
        self._waiting.append(message)
        self.urgent = self.urgent or not isinstance(message, (Drafts, PassReport, Prefilled))

    def deadline(self, frame_ms: float) -> float:
        """When what waits is to be sent at the latest, in ms; infinity if nothing waits."""
        if not self._waiting:
            return inf
        return max(self._drafts_sent_ms + frame_ms, self._waits_since_ms + min(_FRAME_COST_MS, frame_ms))

    def is_due(self, now: float, frame_ms: float, next_pass_ms: float) -> bool:
        """Whether a frame is to be sent now; asked after every event.

        Passes far shorter than a network's jitter would send more frames than a controller has time for: while they go
        on, frames of drafts leave at least ``frame_ms`` apart, and each takes along the passes that are shorter than
        sending it.

        Args:
            now: ms.
            frame_ms: the configuration's.
            next_pass_ms: when the pass that is under way is expected to end, from now; infinity if there is none.
        """
        if self.urgent or not self._waiting:
            return self.urgent
        self._waits_since_ms = min(self._waits_since_ms, now)
        if next_pass_ms == inf or now >= self.deadline(frame_ms):
            return True
        worth_waiting = now + next_pass_ms < self._waits_since_ms + min(_FRAME_COST_MS, frame_ms)
        return now >= self._drafts_sent_ms + frame_ms and not worth_waiting

    def pack(self, sender: int, now: float) -> list[Send]:
        """Make a frame of all that waits, or a few where that is much.

        Raises:
            ProtocolError: a message cannot be encoded; none of them waits any more.
        """
        groups = list(split(self._waiting)) or [()]
        self._drafts_sent_ms = self._drafts_sent_ms if self.urgent else now
        self.urgent = False
        self._waiting.clear()
        self._drafts.clear()
        self._report = None
        self._waits_since_ms = inf
        return [self._frame(group, sender, now) for group in groups]

    def _joined(self, new: Drafts) -> bool:
        """Add drafts to those that wait, where both can be one message."""
        index = self._drafts.get(new.sequence)
        self._drafts[new.sequence] = len(self._waiting)
        if index is None:
            return False
        old = self._waiting[index]
        assert isinstance(old, Drafts)
        follows = new.first == old.first + len(old.nodes) and len(old.nodes) + len(new.nodes) <= MOST_NODES
        if not follows or (new.epoch, new.length, new.hash) != (old.epoch, old.length, old.hash):
            return False
        self._drafts[new.sequence] = index
        self._waiting[index] = old._replace(passes=new.passes, nodes=old.nodes + new.nodes)
        return True

    def _frame(self, messages: tuple[Message, ...], sender: int, now: float) -> Send:
        self._frame_number += 1
        header = Header(sender, self._frame_number, microseconds(now), self.echo, self.echo_received)
        return Send(self.link, encode(Frame(header, messages)))

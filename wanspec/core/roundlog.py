"""Keeps a sequence's rounds as they go: what it did when, why, and what that took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wanspec.core.rounds import Round, Scores, Step, StepKind, Tally
from wanspec.core.tree import Node

RTT_SPIKE = "RTT spike"


class Flight(NamedTuple):
    """How drafts came about. ms: when the commit they follow left, the round trip, when they arrived."""

    sent_ms: float
    rtt_ms: float
    arrived_ms: float

    def split(self, began_ms: float, ended_ms: float) -> tuple[float, float]:
        """Of a wait that these drafts ended: ms of it on the network, ms with the worker."""
        if self.arrived_ms != ended_ms:
            return 0.0, 0.0  # something else ended it
        reached, left = self.sent_ms + self.rtt_ms / 2.0, self.arrived_ms - self.rtt_ms / 2.0
        up = max(0.0, min(reached, ended_ms) - max(began_ms, self.sent_ms))
        down = min(ended_ms - began_ms, self.rtt_ms / 2.0)
        worker = max(0.0, left - max(began_ms, reached))
        return min(up, ended_ms - began_ms - worker - down) + down, worker


class RoundLog:
    """The rounds of one sequence.

    Attributes:
        rounds: those that have ended.
        current: the one under way.
        flight: how the last drafts came; None before any.
    """

    def __init__(self, length: int, submitted: float) -> None:
        """``length`` of the prompt; ``submitted``, ms."""
        self.rounds: list[Round] = []
        self.current = Round(0, length, 0.0)
        self.flight: Flight | None = None
        self._submitted = submitted
        self._cause = ""
        self._scores: Scores = ()
        self._bytes = (0, 0)
        self._spike = False

    def begin(self, now: float) -> None:
        """The sequence's turn has come."""
        self.current.began_ms = now - self._submitted

    def decided(self, cause: str, scores: Scores) -> None:
        """The next step's reasons."""
        self._cause, self._scores = cause, scores
        if cause:
            self.current.causes += (cause,)

    def verifying(self, now: float) -> None:
        """The target is called."""
        self.current.verify_ms = now - self._submitted

    def called(self, kind: StepKind, began: float, now: float, engine_ms: float, failure: str = "") -> None:
        """An engine call has ended."""
        cause, failed = failure or self._cause, bool(failure)
        self._step(Step(kind, 0.0, 0.0, cause, self._scores, engine_ms, failed=failed), began, now)

    def waited(self, began: float, now: float) -> None:
        """A wait has ended."""
        self.current.waited_ms += now - began
        split = (0.0, 0.0) if self.flight is None else self.flight.split(began, now)
        self._step(Step(StepKind.WAIT, 0.0, 0.0, self._cause, self._scores, 0.0, *split), began, now)

    def event(self, what: str, now: float) -> None:
        """Something that an operator may ask for has happened."""
        self.current.events += ((now - self._submitted, what),)

    def round_trip(self, rtt_ms: float, usual_ms: float | None, now: float) -> None:
        """Drafts have measured a round trip. The first that is far above the usual one is an event."""
        self.current.measured_rtt_ms = rtt_ms
        before, self._spike = self._spike, usual_ms is not None and rtt_ms > _spike_ms(usual_ms)
        if self._spike and not before:
            self.event(RTT_SPIKE, now)

    def end(
        self,
        path: Sequence[Node],
        accepted: int,
        committed: tuple[int, ...],
        now: float,
        *,
        engine_ms: float,
        rtt_ms: float | None,
        epoch: int,
        tally: Tally,
    ) -> None:
        """The target's answer is committed: the next round begins."""
        done = self.current
        done.drafted = tuple([node.token for node in path])
        done.origins = tuple([node.origin for node in path])
        done.accepted, done.committed = accepted, committed
        done.engine_ms, done.ended_ms = engine_ms, now - self._submitted
        self._note(done, rtt_ms, epoch, tally)
        self.rounds.append(done)
        self.current = Round(done.index + 1, done.length + len(committed), done.ended_ms)

    def closed(self, now: float, rtt_ms: float | None, epoch: int, tally: Tally) -> tuple[Round, ...]:
        """All rounds, the one under way too if anything has come of it: the sequence has ended."""
        last = self.current
        if not last.steps and not last.events:
            return tuple(self.rounds)
        last.ended_ms = now - self._submitted
        self._note(last, rtt_ms, epoch, tally)
        return (*self.rounds, last)

    def _step(self, step: Step, began: float, now: float) -> None:
        since = self._submitted
        self.current.steps += (step._replace(began_ms=began - since, ended_ms=now - since),)

    def _note(self, done: Round, rtt_ms: float | None, epoch: int, tally: Tally) -> None:
        done.rtt_ms, done.epoch = rtt_ms, epoch
        up, down = tally.bytes_up, tally.bytes_down
        done.bytes_up, done.bytes_down = up - self._bytes[0], down - self._bytes[1]
        self._bytes = up, down


def _spike_ms(usual_ms: float) -> float:
    """Above which a round trip is no ordinary jitter."""
    return 2.0 * usual_ms + 10.0

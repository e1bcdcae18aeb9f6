"""What all bodies share: deadlines, the lock, actions that cannot be begun; with real threads and clocks."""

from __future__ import annotations

import logging
import queue

import pytest

from tests.unit.triton.waiting import LIMIT_S, until
from wanspec.triton.body import Body, now_ms


class Ticking(Body[str, str]):
    """Carries out nothing; ``begun`` has what it was to begin."""

    def __init__(self, machine: Due) -> None:
        super().__init__("ticking", machine)
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()

    def is_engine_call(self, action: str) -> bool:
        return action == "call"

    def begin(self, action: str) -> None:
        self.begun.put(action)
        if action == "fault":
            raise RuntimeError("cannot begin")

    def tick_event(self) -> str:
        return "tick"


class Due:
    """Asks for one more action at every event, and for a tick at ``due``; a tick may fail."""

    due = float("inf")
    failures = 0

    def handle(self, event: str, now: float, /) -> list[str]:
        if event != "tick":
            return event.split()
        self.due = float("inf")
        if self.failures:
            self.failures -= 1
            raise RuntimeError("failed tick")
        return ["ticked"]

    def deadline(self) -> float:
        return self.due


def test_deadlines_are_kept_also_nearer_ones_and_after_a_failure() -> None:
    machine = Due()
    body = Ticking(machine)
    body.start()
    try:
        for later_ms, sooner_ms, failures in ((60_000.0, 5.0, 0), (20.0, 60_000.0, 0), (1.0, 1.0, 1), (1.0, 1.0, 0)):
            began, machine.failures = now_ms(), failures
            machine.due = began + later_ms
            body.handle("one")
            machine.due = min(machine.due, began + sooner_ms)
            body.handle("two")
            assert [body.begun.get(timeout=LIMIT_S) for _ in range(2)] == ["one", "two"]
            if failures:
                until(lambda: machine.failures == 0)
                continue
            assert body.begun.get(timeout=LIMIT_S) == "ticked"
            assert min(later_ms, sooner_ms) <= now_ms() - began < 30_000.0
    finally:
        body._timer.end(LIMIT_S)
    assert not body.running


def test_an_event_is_dropped_unless_what_it_needs_holds_and_calls_can_be_kept() -> None:
    body = Ticking(Due())
    assert body.handle("one call", provided=lambda: False) == []
    assert body.begun.empty()
    assert body.handle("one call two", keep_calls=True, provided=body._lock.locked) == ["call"]
    assert [body.begun.get_nowait() for _ in range(2)] == ["one", "two"]
    assert body.handle("call") == []
    assert body.begun.get_nowait() == "call"


def test_an_action_that_cannot_be_begun_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    body = Ticking(Due())
    body.handle("fault one")
    assert [body.begun.get_nowait() for _ in range(2)] == ["fault", "one"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_deadline_outlives_ticks_that_fail() -> None:
    """A machine whose deadline stays where it is while its ticks fail."""

    class Failing(Due):
        def handle(self, event: str, now: float, /) -> list[str]:
            if event == "tick" and self.failures:
                self.failures -= 1
                raise RuntimeError("failed tick")
            return super().handle(event, now)

    machine = Failing()
    body = Ticking(machine)
    machine.failures, machine.due = 3, now_ms()
    body.start()
    try:
        assert body.begun.get(timeout=LIMIT_S) == "ticked"
        assert machine.failures == 0
    finally:
        body._timer.end(LIMIT_S)

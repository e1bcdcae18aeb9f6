"""Threads for blocking calls: how many there are, who waits, what the end drops."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

from wanspec.triton.call_threads import CallThreads

LIMIT_S = 30.0


class Calls:
    """Each call is one gate, and lasts until it is open."""

    def __init__(self, most: int) -> None:
        self.begun: SimpleQueue[threading.Event] = SimpleQueue()
        self.ended: SimpleQueue[threading.Event] = SimpleQueue()
        self.threads = CallThreads(self._serve, most, "test")

    def put(self) -> threading.Event:
        gate = threading.Event()
        self.threads.put(gate)
        return gate

    def _serve(self, gate: threading.Event) -> None:
        self.begun.put(gate)
        assert gate.wait(LIMIT_S)
        self.ended.put(gate)


def test_calls_are_made_at_once_as_far_as_threads_go_and_then_in_order() -> None:
    calls = Calls(most=2)
    gates = [calls.put() for _ in range(4)]
    assert {calls.begun.get(timeout=LIMIT_S) for _ in range(2)} == set(gates[:2])
    assert (calls.threads.waiting, calls.begun.empty()) == (2, True)
    gates[1].set()
    assert calls.begun.get(timeout=LIMIT_S) is gates[2]
    assert calls.threads.waiting == 1
    for gate in gates:
        gate.set()
    assert calls.begun.get(timeout=LIMIT_S) is gates[3]
    assert {calls.ended.get(timeout=LIMIT_S) for _ in range(4)} == set(gates)
    calls.threads.close()
    calls.threads.join(LIMIT_S)


def test_an_idle_thread_is_used_again() -> None:
    calls = Calls(most=64)
    for _ in range(20):
        calls.put().set()
        calls.ended.get(timeout=LIMIT_S)
        time.sleep(0.001)
    assert len([t for t in threading.enumerate() if t.name.startswith("test-")]) < 10
    calls.threads.close()
    calls.threads.join(LIMIT_S)


def test_the_end_drops_what_waits_and_leaves_what_runs() -> None:
    calls = Calls(most=1)
    running, _ = calls.put(), calls.put()
    assert calls.begun.get(timeout=LIMIT_S) is running
    calls.threads.close()
    calls.put()
    running.set()
    calls.threads.join(LIMIT_S)
    assert calls.ended.get(timeout=LIMIT_S) is running
    assert calls.begun.empty()

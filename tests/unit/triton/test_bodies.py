"""Bodies, with real threads and clocks; engines and clients are doubles."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.core.core_doubles import PRINT, VOCAB, Bench, hash_of
from wanspec.core.config import ControllerConfig, WorkerConfig
from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.eventlog import read_log
from wanspec.core.events import Draft, Finished, Request, Verify
from wanspec.core.messages import Close, Drafting, Drafts, Hello, Open
from wanspec.core.tree import Origin
from wanspec.core.wire import decode
from wanspec.triton.body import Body, now_ms
from wanspec.triton.controller_body import ControllerBody
from wanspec.triton.tensorrt_llm import EngineAnswer
from wanspec.triton.worker_body import WorkerBody

LIMIT_S = 60.0
"""Long enough for any machine; only a failing test takes it."""


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


class Engines:
    """A target that answers token 7; ``served`` has the sequences of its calls in order.

    A sequence that has a gate gets ``free`` answers, and others once its gate is open.
    """

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.gates: dict[int, threading.Event] = {}
        self.served: list[int] = []
        self.failures = 0

    def gate(self, sequence: int) -> threading.Event:
        return self.gates.setdefault(sequence, threading.Event())

    def verify(self, action: Verify, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        sequence = action.action[0]
        self.served.append(sequence)
        if sequence in self.gates and self.served.count(sequence) > self.free:
            assert self.gates[sequence].wait(LIMIT_S)
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("out of memory")
        return EngineAnswer((7,), (), 0.0)

    def draft(self, action: Draft, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        raise AssertionError("nobody drafts")


class Client:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.end: Finished | None = None
        self.asked_after_end = False
        self._ended = threading.Event()

    def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...]) -> None:
        assert self.end is None
        self.tokens += tokens

    def finished(self, finished: Finished) -> None:
        assert self.end is None
        self.end = finished
        self._ended.set()

    def cancelled(self) -> bool:
        self.asked_after_end |= self.end is not None
        return False

    def reason(self) -> str:
        assert self._ended.wait(LIMIT_S)
        assert self.end is not None
        return self.end.reason


@contextmanager
def controller(engines: Engines, threads: int = 4, event_log: Path | None = None) -> Iterator[ControllerBody]:
    body = ControllerBody(ControllerConfig(PRINT, links=0), engines, engine_threads=threads, event_log=event_log)
    body.start()
    try:
        yield body
    finally:
        for gate in engines.gates.values():
            gate.set()
        body.close()


def ask(body: ControllerBody, client: Client, tokens: int = 5, deadline_ms: float = 0.0) -> Client:
    body.submit(Request((5, 6), tokens, policy="target_only", deadline_ms=deadline_ms), client)
    return client


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_sequences_take_turns_where_threads_are_few() -> None:
    engines = Engines()
    gate = engines.gate(1)
    with controller(engines, threads=1) as body:
        clients = [ask(body, Client()) for _ in range(3)]
        gate.set()
        assert [client.reason() for client in clients] == ["length"] * 3
    assert engines.served == [1, 2, 3] * 5
    assert [client.tokens for client in clients] == [[7] * 5] * 3


def test_many_sequences_on_two_threads() -> None:
    with controller(Engines(), threads=2) as body:
        clients = [ask(body, Client(), tokens=20) for _ in range(30)]
        assert [client.reason() for client in clients] == ["length"] * 30
    assert [client.tokens for client in clients] == [[7] * 20] * 30


def test_an_engine_that_fails_is_asked_again_and_then_named() -> None:
    engines = Engines()
    with controller(engines) as body:
        engines.failures = 1
        client = ask(body, Client())
        assert (client.reason(), client.tokens) == ("length", [7] * 5)
        engines.failures = 2
        client = ask(body, Client())
        assert client.reason() == "error"
        assert client.end is not None
        assert client.end.error == "out of memory"


def test_a_client_that_cannot_be_told_is_cancelled_and_others_are_not() -> None:
    class Gone(Client):
        def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...]) -> None:
            raise OSError("gone")

    engines = Engines(free=2)
    engines.gate(1)
    other_gate = engines.gate(2)
    with controller(engines) as body:
        gone, other = ask(body, Gone()), ask(body, Client())
        assert gone.reason() == "cancelled"
        other_gate.set()
        assert other.reason() == "length"


def test_a_client_is_not_asked_after_its_end() -> None:
    engines = Engines()
    gate = engines.gate(1)

    class Leaving(Client):
        def cancelled(self) -> bool:
            asked.set()
            assert answered.wait(LIMIT_S)
            return super().cancelled()

    asked, answered = threading.Event(), threading.Event()
    with controller(engines) as body:
        client = ask(body, Leaving(), tokens=1)
        assert asked.wait(LIMIT_S)
        gate.set()  # its end comes while it is being asked
        until(lambda: not body.controller.sequences)
        time.sleep(0.01)
        assert client.end is None
        answered.set()
        assert client.reason() == "length"
    assert not client.asked_after_end


def test_a_client_that_leaves_is_cancelled_and_one_that_cannot_be_asked_is_not() -> None:
    class Leaving(Client):
        def cancelled(self) -> bool:
            return True

    class Broken(Client):
        def cancelled(self) -> bool:
            raise OSError("no answer")

    engines = Engines()
    gates = [engines.gate(1), engines.gate(2)]
    with controller(engines) as body:
        broken, leaving = ask(body, Broken()), ask(body, Leaving())
        assert leaving.reason() == "cancelled"
        for gate in gates:
            gate.set()
        assert broken.reason() == "length"


def test_tokens_that_a_client_is_slow_to_take_keep_no_round_waiting() -> None:
    class Slow(Client):
        def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...]) -> None:
            assert taken.wait(LIMIT_S)
            super().emit(tokens, origins)

    taken = threading.Event()
    engines = Engines()
    with controller(engines) as body:
        client = ask(body, Slow())
        until(lambda: engines.served == [1] * 5)
        assert client.end is None
        taken.set()
        assert (client.reason(), client.tokens) == ("length", [7] * 5)


def test_a_deadline_passes_while_an_engine_works() -> None:
    engines = Engines()
    engines.gate(1)
    with controller(engines) as body:
        assert ask(body, Client(), deadline_ms=20.0).reason() == "deadline"


def test_closing_ends_what_runs_and_an_answer_after_it_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines = Engines()
    gate = engines.gate(1)
    with controller(engines, event_log=tmp_path / "log") as body:
        client = ask(body, Client())
        until(lambda: engines.served)
        body.close()
        assert client.reason() == "cancelled"
        gate.set()
        body._calls.join(LIMIT_S)
    assert client.tokens == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    _, _, entries = read_log((tmp_path / "log").read_text().splitlines())
    assert type(entries[-1][1]).__name__ == "Cancelled"


class DraftEngine:
    """Drafts token 9 after anything, at once; forgets nothing without a fault."""

    context = 64
    vocab_size = VOCAB

    def expand(self, batch: list[SequenceLeaves], top: int) -> Expansion:
        leaves = sum(len(item.leaves) for item in batch)
        zeros = np.zeros((leaves, top), dtype=np.float32)
        return Expansion(np.full((leaves, top), 9, dtype=np.int32), zeros - 0.1, zeros[:, 0], 0.0)

    def release(self, key: object) -> None:
        raise RuntimeError("no such sequence")


class Downlink:
    """Keeps the drafts of its frames."""

    def __init__(self) -> None:
        self.drafts: queue.SimpleQueue[Drafts] = queue.SimpleQueue()

    def send(self, data: bytes) -> None:
        for message in decode(data).messages:
            if isinstance(message, Drafts):
                self.drafts.put(message)

    def close(self) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def test_drafts_of_short_passes_all_arrive_in_order_and_a_release_that_fails_stops_nothing() -> None:
    frames, downlink = Bench(), Downlink()
    body = WorkerBody(WorkerConfig(PRINT), DraftEngine())
    body.start()
    try:
        body.link(frames.frame(Hello(b"controller-uuid1", VOCAB, PRINT.tokenizer_hash)), downlink)
        chain = Drafting(branching=1, theta=0.0, width=1, max_depth=12)
        for number in range(1, 4):
            body.steer(frames.frame(Close(number - 1, 1), Open(number, 1, (5, 6), hash_of((5, 6)), chain)))
            got = [downlink.drafts.get(timeout=LIMIT_S) for _ in range(12)]
            assert [(drafts.sequence, drafts.first) for drafts in got] == [(number, first) for first in range(12)]
    finally:
        body.close()


def test_frames_leave_in_order_while_a_controller_is_slow_to_take_one_and_then_the_link_ends() -> None:
    class Slow(Downlink):
        def __init__(self) -> None:
            super().__init__()
            self.taken = threading.Event()
            self.ended = threading.Event()

        def send(self, data: bytes) -> None:
            assert self.taken.wait(LIMIT_S)
            assert not self.ended.is_set()
            super().send(data)

        def close(self) -> None:
            self.ended.set()

        def cancelled(self) -> bool:
            assert not self.ended.is_set()
            return bool(asked)

    asked: list[bool] = []
    frames, slow = Bench(), Slow()
    body = WorkerBody(WorkerConfig(PRINT, frame_ms=0.0), DraftEngine())
    body.start()
    try:
        body.link(frames.frame(Hello(b"controller-uuid1", VOCAB, PRINT.tokenizer_hash)), slow)
        chain = Drafting(branching=1, theta=0.0, width=1, max_depth=6)
        body.steer(frames.frame(Open(1, 1, (5, 6), hash_of((5, 6)), chain)))
        until(lambda: body.worker.counters.passes == 6)
        assert slow.drafts.empty(), "passes and commits wait for nobody who takes a frame"
        slow.taken.set()
        assert [slow.drafts.get(timeout=LIMIT_S).first for _ in range(6)] == list(range(6))
        asked.append(True)
        assert slow.ended.wait(LIMIT_S)
        until(lambda: not body.worker.sequences)
    finally:
        body.close()

"""The controller's body, with real threads and clocks; engines and clients are doubles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.core.core_doubles import PRINT
from tests.unit.triton.waiting import LIMIT_S, until
from wanspec.core.config import ControllerConfig
from wanspec.core.control import Control, Speculation
from wanspec.core.eventlog import read_log
from wanspec.core.events import ActionId, Draft, Finished, Request, Verify
from wanspec.core.tree import Origin
from wanspec.errors import InvalidRequestError
from wanspec.triton.controller_body import ControllerBody
from wanspec.triton.tensorrt_llm import EngineAnswer


class Engines:
    """A target that answers token 7; ``served`` has the sequences of its calls in order.

    A sequence that has a gate gets ``free`` answers, and others once its gate is open.
    """

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.gates: dict[int, threading.Event] = {}
        self.served: list[int] = []
        self.stopped: list[ActionId] = []
        self.ends_by_stop = False
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

    def stop(self, action: ActionId) -> None:
        self.stopped.append(action)
        if self.ends_by_stop:
            self.gate(action[0]).set()


class Client:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.end: Finished | None = None
        self.asked_after_end = False
        self._ended = threading.Event()

    def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...], log_probs: tuple[float, ...]) -> None:
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
def controller(
    engines: Engines, threads: int = 4, event_log: Path | None = None, **limits: int
) -> Iterator[ControllerBody]:
    config = ControllerConfig(PRINT, links=0, **limits)
    body = ControllerBody(config, engines, engine_threads=threads, event_log=event_log)
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
        def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...], log_probs: tuple[float, ...]) -> None:
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
        def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...], log_probs: tuple[float, ...]) -> None:
            assert taken.wait(LIMIT_S)
            super().emit(tokens, origins, log_probs)

    taken = threading.Event()
    engines = Engines()
    with controller(engines) as body:
        client = ask(body, Slow())
        until(lambda: engines.served == [1] * 5)
        assert client.end is None
        taken.set()
        assert (client.reason(), client.tokens) == ("length", [7] * 5)


def test_one_waits_and_one_more_is_busy() -> None:
    engines = Engines()
    gate = engines.gate(1)
    with controller(engines, max_sequences=1, max_queue=1) as body:
        first, second, third = (ask(body, Client()) for _ in range(3))
        assert third.reason() == "busy"
        assert third.end is not None
        assert third.end.error.startswith("busy: 1 requests are under way and 1 wait")
        assert (body.state()["running"], body.state()["waiting"]) == (1, 1)
        gate.set()
        assert (first.reason(), second.reason()) == ("length", "length")
        assert (body.state()["running"], body.state()["waiting"]) == (0, 0)
    assert engines.served == [1] * 5 + [2] * 5


def test_a_request_that_cannot_be_is_refused() -> None:
    with controller(Engines()) as body:
        client = Client()
        body.submit(Request((5,), 0), client)
        assert client.reason() == "refused"


def test_switches_reach_the_controller() -> None:
    with controller(Engines()) as body:
        body.set_control(Control(Speculation.OFF, "local", {"k": 3}))
        assert (body.state()["speculation"], body.state()["policy_parameters"]) == ("off", {"k": 3})
        with pytest.raises(InvalidRequestError, match="magic"):
            body.set_control(Control(policy="magic"))
        assert body.state()["policy"] == "local"


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


def test_a_call_that_nobody_waits_for_is_stopped_though_all_threads_wait() -> None:
    engines = Engines()
    engines.gate(1)
    engines.ends_by_stop = True
    with controller(engines, threads=1) as body:
        first, second = ask(body, Client(), deadline_ms=50.0), ask(body, Client())
        assert first.reason() == "deadline"
        assert second.reason() == "length"  # the only thread is free again
        until(lambda: engines.stopped == [(1, 1)])


def test_a_stop_that_fails_is_told_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    engines = Engines()
    engines.gate(1)
    engines.stop = lambda action: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    with controller(engines) as body:
        assert ask(body, Client(), deadline_ms=50.0).reason() == "deadline"
        until(lambda: "could not be stopped" in caplog.text)
        assert ask(body, Client()).reason() == "length"

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.pace import Pace
from wanspec.engines.runner import EngineRunner
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.zero import ZeroEngine
from wanspec.errors import EngineError, RequestStoppedError, WanspecError

Answers = queue.Queue  # of results and errors


def request(token: int, count: int) -> GenerationRequest:
    return GenerationRequest(np.array([token], dtype=np.int32), count)


@pytest.fixture
def paced() -> Iterator[EngineRunner]:
    runner = EngineRunner(ZeroEngine(pace=Pace(5.0)))
    yield runner
    runner.close()


def test_a_request_joins_a_running_batch(paced: EngineRunner) -> None:
    order: Answers = queue.Queue()
    paced.submit(request(1, 60), lambda answer: order.put(("long", answer)))
    time.sleep(0.02)
    paced.submit(request(2, 2), lambda answer: order.put(("short", answer)))
    assert [order.get(timeout=5)[0], order.get(timeout=5)[0]] == ["short", "long"]


def test_bad_requests_are_answered_by_their_error(paced: EngineRunner) -> None:
    answers: Answers = queue.Queue()
    paced.submit(request(1, 0), answers.put)
    assert "request_output_len" in str(answers.get(timeout=5))


def test_cancelled_requests_end_and_their_neighbours_go_on(paced: EngineRunner) -> None:
    answers: Answers = queue.Queue()
    paced.submit(request(1, 10_000), lambda answer: answers.put(("cancelled", answer)), lambda: True)
    paced.submit(request(2, 60), lambda answer: answers.put(("other", answer)))
    name, answer = answers.get(timeout=5)
    assert (name, str(answer)) == ("cancelled", "the request was cancelled")
    name, answer = answers.get(timeout=5)
    assert name == "other"
    assert isinstance(answer, GenerationResult)
    assert len(answer.output_ids) == 60


def test_closing_answers_everyone() -> None:
    runner = EngineRunner(ZeroEngine(pace=Pace(5.0)))
    answers: Answers = queue.Queue()
    runner.submit(request(1, 10_000), answers.put)
    time.sleep(0.02)
    runner.close()
    assert "shutting down" in str(answers.get(timeout=5))
    runner.submit(request(1, 1), answers.put)
    assert "shutting down" in str(answers.get(timeout=5))


def test_a_fault_of_the_engine_leaves_no_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ZeroEngine()
    runner = EngineRunner(engine)
    answers: Answers = queue.Queue()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", lambda: (_ for _ in ()).throw(RuntimeError("broken")))
        runner.submit(request(1, 1), answers.put)
        assert "RuntimeError: broken" in str(answers.get(timeout=5))
    runner.submit(request(1, 1), answers.put)
    assert isinstance(answers.get(timeout=5), GenerationResult)
    runner.close()


def test_a_client_that_fails_does_not_end_the_engine(paced: EngineRunner) -> None:
    answers: Answers = queue.Queue()
    paced.submit(request(1, 1), lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    paced.submit(request(1, 1), answers.put)
    assert not isinstance(answers.get(timeout=5), WanspecError)


def test_cancelling_keeps_what_was_computed(model: TorchModel) -> None:
    engine = TorchEngine(model)
    prompt = np.arange(1, 51, dtype=np.int32)
    running = engine.add(GenerationRequest(prompt, 20))
    waiting = engine.add(GenerationRequest(prompt, 20))
    engine.cancel(waiting)
    engine.step()
    engine.cancel(running)
    engine.cancel(running)
    assert engine.idle
    assert "cancelled" in str(running.result())
    assert "cancelled" in str(waiting.result())
    (result,) = engine.generate([GenerationRequest(prompt, 1)])
    assert isinstance(result, GenerationResult)
    assert result.reused_blocks == 2


class Stepwise:
    """An engine whose requests end after one step of 60 ms; it notes who shared a step."""

    vocab_size = 10
    idle = False

    max_batch_size = 0

    def __init__(self):
        self.steps, self._waiting = [], []

    def add(self, request):
        running = Ended(request)
        self._waiting.append(running)
        return running

    def step(self):
        batch, self._waiting = self._waiting, []
        self.steps.append(len(batch))
        time.sleep(0.06)
        return batch

    def cancel(self, running):
        self._waiting.remove(running)


class Ended:
    def __init__(self, request):
        self._request = request

    def result(self):
        return EngineError("ended")

    def so_far(self):
        return None


def test_sequences_whose_rounds_end_together_stay_together():
    engine = Stepwise()
    runner = EngineRunner(engine)
    rounds, sequences, finished = 5, 6, threading.Semaphore(0)

    def submit(left):
        def done(answer):
            # As a controller: the next round comes a moment after the answer, from another thread.
            next_step = (lambda: submit(left - 1)) if left > 1 else finished.release
            threading.Timer(0.001, next_step).start()

        runner.submit(request=object(), done=done)

    try:
        for _ in range(sequences):
            submit(rounds)
        for _ in range(sequences):
            assert finished.acquire(timeout=10)
    finally:
        runner.close()
    # Only the first step may have begun before all had come.
    assert len(engine.steps) <= rounds + 1, engine.steps


def test_an_engine_that_cannot_add_answers_and_lives():
    class Broken(Stepwise):
        def add(self, request):
            raise KeyError("slot")

    runner = EngineRunner(Broken())
    answers = queue.SimpleQueue()
    try:
        for _ in range(2):
            runner.submit(request=object(), done=answers.put)
            assert "KeyError" in str(answers.get(timeout=5))
    finally:
        runner.close()


def test_who_waits_for_a_place_can_be_stopped_or_cancelled_and_is_answered_at_the_end():
    runner = EngineRunner(ZeroEngine(max_batch_size=1, pace=Pace(30.0)), "one at a time")
    answers: dict[str, object] = {}
    ended = {name: threading.Event() for name in ("runs", "stopped", "next", "never")}

    def submit(name, tokens):
        def done(answer):
            answers[name] = answer
            ended[name].set()

        runner.submit(request(7, tokens), done, name=name)

    submit("runs", 3)
    submit("stopped", 1)
    submit("next", 1)
    submit("never", 1_000)
    runner.stop("stopped")
    assert ended["stopped"].wait(5)
    assert isinstance(answers["stopped"], RequestStoppedError)
    assert ended["next"].wait(5)
    assert ended["runs"].is_set(), "the oldest has the place until it ends"
    runner.close()
    assert ended["never"].is_set()
    assert "shutting down" in str(answers["never"])
    assert len(answers["runs"].output_ids) == 3

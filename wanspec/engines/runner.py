"""Runs an engine in a thread of its own, so that requests join and leave its batch between two steps."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from math import inf

from wanspec.engines.contract import EngineLoad, GenerationEngine, GenerationRequest, GenerationResult, RunningRequest
from wanspec.engines.shared_gpu import SharedGpu
from wanspec.errors import EngineError, RequestStoppedError, WanspecError

logger = logging.getLogger(__name__)

IDLE_POLL_S = 0.5
LINGER_S, LINGER_SHARE = 0.003, 0.05
"""A step waits this long, and no longer than this share of the last one, for sequences whose round has just ended.

On a shared GPU the shares are of the longest of the engines' last steps, and whose rounds are due cannot be told: some
have just been drafted for by another engine. So a step waits until no request has come for a while.
"""
SHARED_LINGER, SHARED_QUIET = 0.1, 0.01
"""Longest wait for requests that keep coming, and how long none may come, on a shared GPU."""

CANCELLATION_CHECK_PERIOD_S = 0.1
"""As TensorRT-LLM's cancellation_check_period_ms."""

Done = Callable[[GenerationResult | WanspecError], None]
OnTokens = Callable[[GenerationResult], None]


@dataclass(slots=True)
class _Submission:
    request: GenerationRequest
    done: Done
    cancelled: Callable[[], bool]
    on_tokens: OnTokens | None
    name: str
    sent: int = 0
    arrived_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, slots=True)
class _Stop:
    name: str


class EngineRunner:
    """Owns an engine: ``submit`` from any thread; answers come by callback, in the engine's thread."""

    def __init__(self, engine: GenerationEngine, name: str = "engine", *, gpu: SharedGpu | None = None) -> None:
        """Start the thread.

        Args:
            engine: what it runs.
            name: of the thread.
            gpu: shared with other engines: a step waits for its turn, and takes along who comes meanwhile.
        """
        self._engine = engine
        self._gpu = gpu
        self._submissions: queue.SimpleQueue[_Submission | _Stop | None] = queue.SimpleQueue()
        self._running: dict[RunningRequest, _Submission] = {}
        self._closing = threading.Event()
        self._cancellation_checked = time.monotonic()
        self._just_ended = 0
        self._linger_s = self._quiet_s = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self,
        request: GenerationRequest,
        done: Done,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        on_tokens: OnTokens | None = None,
        name: str = "",
    ) -> None:
        """Queue a request.

        Args:
            request: what to generate.
            done: called once, with the result or the error; must not block.
            cancelled: asked now and then whether the answer is still wanted.
            on_tokens: called with the new tokens of each step but the last, which ``done`` gets; must not block.
            name: what :meth:`stop` knows it by.
        """
        if self._closing.is_set():
            done(EngineError("the engine is shutting down"))
        else:
            self._submissions.put(_Submission(request, done, cancelled, on_tokens, name))

    @property
    def load(self) -> EngineLoad:
        """What the engine has in hand, and what it has not been given yet; from any thread."""
        load = self._engine.load
        return replace(load, waiting=load.waiting + self._submissions.qsize())

    def stop(self, name: str) -> None:
        """End the requests of this name that were submitted before; their answer is a :class:`RequestStoppedError`."""
        self._submissions.put(_Stop(name))

    def close(self, timeout_s: float = 10.0) -> None:
        """Fail what is queued or running, and end the thread after its current step."""
        self._closing.set()
        self._submissions.put(None)  # wakes an idle thread
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning("the engine's thread is still in a step after %.1f s", timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._await_submission()
            if not self._running:
                continue
            with self._turn():
                self._linger()
                for submission in self._drain():
                    self._take(submission)
                self._drop_cancelled()
                ended = self._step() if self._running else []
            try:
                self._deliver(ended)
            except Exception as error:
                self._fail(error)
        for submission in [*self._running.values(), *self._drain()]:
            if isinstance(submission, _Submission):
                _answer(submission, EngineError("the engine is shutting down"))

    def _turn(self) -> AbstractContextManager[None]:
        """The GPU, for one step."""
        if self._gpu is None:
            return nullcontext()
        return self._gpu.turn(min(submission.arrived_ns for submission in self._running.values()))

    def _step(self) -> Sequence[RunningRequest]:
        """Run a step; return the requests that ended with it."""
        began = time.monotonic()
        try:
            ended = self._engine.step()
            self._passed(time.monotonic() - began)
        except Exception as error:
            self._fail(error)
            return []
        self._just_ended = len(ended)
        return ended

    def _passed(self, took_s: float) -> None:
        """Learn from a pass how long to wait for more requests."""
        if self._gpu is None:
            self._linger_s = min(LINGER_S, LINGER_SHARE * took_s)
            return
        members = min(len(self._running), self._engine.max_batch_size or len(self._running))
        self._gpu.passed(int(took_s * 1e9), members)
        longest_s = self._gpu.longest_s
        self._quiet_s, self._linger_s = SHARED_QUIET * longest_s, SHARED_LINGER * longest_s

    def _fail(self, error: Exception) -> None:
        """Not a failed request (those are answers) but a fault of the engine: no one may be left waiting for it."""
        logger.error("the engine's step failed", exc_info=error)
        for running, submission in self._running.items():
            self._engine.cancel(running)
            _answer(submission, EngineError(f"the engine failed: {type(error).__name__}: {error}"))
        self._running.clear()

    def _deliver(self, ended: Sequence[RunningRequest]) -> None:
        """Answer those that ended, and send the others their new tokens."""
        for each in ended:
            result = each.result()
            _answer(self._running.pop(each), result)
        for running, submission in self._running.items():
            if submission.on_tokens is not None:
                _send_tokens(submission, running.so_far())

    def _await_submission(self) -> None:
        """Where nothing runs, wait a while for a request."""
        if self._running:
            return
        try:
            first = self._submissions.get(timeout=IDLE_POLL_S)
        except queue.Empty:
            return
        if first is not None:
            self._just_ended -= 1
            self._take(first)

    def _linger(self) -> None:
        """Wait a moment for the next rounds of sequences whose round has just ended.

        Their controllers answer within milliseconds. Starting at once would leave them a whole step behind, and two
        groups of sequences would take turns from then on, each at half the speed.
        """
        until = time.monotonic() + self._linger_s
        most = self._engine.max_batch_size or inf
        while (self._just_ended > 0 or self._gpu is not None) and (left := until - time.monotonic()) > 0:
            if len(self._running) >= most:
                return
            try:
                submission = self._submissions.get(timeout=min(left, self._quiet_s) if self._gpu is not None else left)
            except queue.Empty:
                return
            self._just_ended -= 1
            if submission is not None:
                self._take(submission)

    def _drain(self) -> list[_Submission | _Stop]:
        found: list[_Submission | _Stop] = []
        while True:
            try:
                submission = self._submissions.get_nowait()
            except queue.Empty:
                return found
            if submission is not None:
                found.append(submission)

    def _take(self, submission: _Submission | _Stop) -> None:
        if isinstance(submission, _Stop):
            self._stop(submission.name)
            return
        try:
            self._running[self._engine.add(submission.request)] = submission
        except WanspecError as error:
            _answer(submission, error)
        except Exception as error:
            logger.exception("a request could not be added")
            _answer(submission, EngineError(f"the engine failed: {type(error).__name__}: {error}"))

    def _stop(self, name: str) -> None:
        for running, submission in list(self._running.items()):
            if submission.name == name:
                self._engine.cancel(running)
                del self._running[running]
                _answer(submission, RequestStoppedError(f"request {name!r} was stopped by a request"))

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        if now - self._cancellation_checked < CANCELLATION_CHECK_PERIOD_S:
            return
        self._cancellation_checked = now
        for running, submission in list(self._running.items()):
            if _is_cancelled(submission):
                self._engine.cancel(running)
                _answer(self._running.pop(running), running.result())


def _is_cancelled(submission: _Submission) -> bool:
    try:
        return submission.cancelled()
    except Exception:
        logger.exception("whether a request was cancelled could not be told")
        return False


def _send_tokens(submission: _Submission, so_far: GenerationResult | None) -> None:
    if so_far is None or len(so_far.output_ids) == submission.sent or submission.on_tokens is None:
        return
    new = so_far.since(submission.sent)
    submission.sent = len(so_far.output_ids)
    try:
        submission.on_tokens(new)
    except Exception:
        logger.exception("new tokens could not be delivered")


def _answer(submission: _Submission, answer: GenerationResult | WanspecError) -> None:
    if isinstance(answer, GenerationResult):
        answer = answer.since(submission.sent)
    try:
        submission.done(answer)
    except Exception:
        # A client that has gone must not end the engine.
        logger.exception("an answer could not be delivered")

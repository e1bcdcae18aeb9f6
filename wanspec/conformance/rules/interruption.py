"""Requests that are ended from outside: by a client that goes, by a stop request."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from wanspec.conformance.answer import Answer
from wanspec.conformance.rule import RuleFailedError, RuleSkippedError, require, rule
from wanspec.conformance.rules.performance import LONG_PROMPT, measured
from wanspec.conformance.server import CannotAskError, RefusedError, Running
from wanspec.conformance.sources import BACKEND
from wanspec.conformance.subject import Subject

SECTION = BACKEND
LONG = 2048
"""Most tokens of a request that is to be interrupted."""
ENOUGH_S = 2.0
"""What such a request should take."""
FIRST_TRY = 128
SHARE = 0.1
"""When to interrupt, as a part of the time that the whole request takes."""
CANCELLATION_S = 0.25
"""More than two of TensorRT-LLM's cancellation_check_period_ms."""
STARTED_S = 10.0


def _whole(subject: Subject) -> tuple[int, float]:
    """Tokens and seconds of a long request that nobody interrupts: about as long as ``ENOUGH_S``.

    Raises:
        RuleSkippedError: it is over too soon to be interrupted.
    """
    count, tokens, seconds = FIRST_TRY, FIRST_TRY, 0.0
    # A try that was slow by chance asks for too few tokens: so one more; the context ends it too.
    for _ in range(3):
        started = time.monotonic()
        tokens = len(subject.text(subject.prompt(LONG_PROMPT), count))
        seconds = time.monotonic() - started
        if seconds >= 0.7 * ENOUGH_S or tokens < count or count == LONG:
            break
        count = min(LONG, round(count * ENOUGH_S / seconds))
    if seconds < 3 * CANCELLATION_S:
        raise RuleSkippedError(f"{tokens} tokens take {seconds:.2f} s: too fast to be interrupted for sure")
    return tokens, seconds


@rule(
    "interruption.stop",
    "A request with stop and the same request id ends a running one early.",
    section=SECTION,
    why="the controller stops drafts that are of no more use",
    how="stops a request of about 2 s (2,048 tokens at most) after a tenth of its time",
)
def stop(subject: Subject) -> None:
    """Stop by request id."""
    if subject.decoupled and subject.server.protocol == "http":
        raise CannotAskError("HTTP generate_stream carries no request id")
    tokens, seconds = _whole(subject)
    name, prompt = str(uuid.uuid4().int % 2**63), subject.prompt(LONG_PROMPT)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: subject.ask(prompt, tokens, streaming=subject.decoupled or None, request_id=name))
        time.sleep(SHARE * seconds)
        subject.ask(prompt, 1, stop=True, request_id=name)
        stopped = _end_of(running.result)
    require("tokens of the stopped request", stopped < tokens, f"fewer than {tokens}", stopped)


def _end_of(result: object) -> int:
    """How many tokens a stopped request got; one that ends with CANCELLED got none."""
    assert callable(result), "of a future"
    try:
        answer = result()
    except RefusedError as error:
        if error.code == "CANCELLED" or error.code.startswith("HTTP 499"):
            return 0
        raise RuleFailedError("the answer to the stopped request", "an empty response", error) from error
    assert isinstance(answer, Answer), "of ask"
    return len(answer.tokens)


@rule(
    "interruption.cancel",
    "A request whose client cancels it ends, and what it had computed can be reused.",
    section=SECTION + "; section 2, KV reuse",
    why="abandoned requests would keep the GPU busy",
    how="cancels a request of about 2 s (2,048 tokens at most) after a tenth of its time, and asks soon after "
    "for its prompt: KV blocks are reusable only after a request has ended",
)
def cancel(subject: Subject) -> None:
    """Native cancellation."""
    if not subject.server.can_cancel:
        raise CannotAskError("HTTP has no cancellation")
    name = "kv_cache_reused_blocks"
    tokens, seconds = _whole(subject)
    prompt, calls, there = subject.prompt(LONG_PROMPT), [], threading.Event()

    def started(call: Running) -> None:
        calls.append(call)
        there.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: subject.ask(prompt, tokens, started=started))
        require("the request", there.wait(STARTED_S), f"sent within {STARTED_S:g} s", "not sent")
        time.sleep(SHARE * seconds)
        require("the request", not running.done(), "still running", "ended")
        calls[0].cancel()
        try:
            got = len(running.result().tokens)
            raise RuleFailedError("the cancelled request", "CANCELLED", f"{got} tokens")
        except RefusedError as error:
            require("the cancelled request", error.code == "CANCELLED", "CANCELLED", error)
    time.sleep(CANCELLATION_S)
    reused = measured(subject, prompt, 1, (name,)).scalar(name)
    # One block may match in part, by chance, what another prompt has left.
    require(f"{name} of its prompt soon after", reused > 1, "more than 1", reused)


RULES = (stop, cancel)

"""Which requests a controller serves, which of them decode now, and which wait for their turn."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from wanspec.core.config import ControllerConfig
from wanspec.core.events import Action, Claims, Request, Submitted
from wanspec.core.options import check_options, check_sampling
from wanspec.core.policies import make_policy
from wanspec.core.sequence import Sequence
from wanspec.errors import BusyError, InvalidRequestError

if TYPE_CHECKING:
    from wanspec.core.controller import Controller

_MAX_SEQUENCE = 0xFFFFFFFF
_MAX_TRACEPARENT = 256
MAX_CONVERSATION = 256


def check_number(number: int, taken: Container[int]) -> None:
    """Refuse a number that a sequence cannot have.

    Raises:
        InvalidRequestError: says what is wrong with it.
    """
    if number in taken:
        raise InvalidRequestError("sequence", f"{number} is already in use")
    if not 0 <= number <= _MAX_SEQUENCE:
        raise InvalidRequestError("sequence", f"{number} is outside 0 to {_MAX_SEQUENCE}")


class Admission:
    """Takes requests in. They begin in the order they came: one that does not fit yet keeps later ones waiting.

    Attributes:
        waiting: by number, the longest wait first.
        running: how many decode.
        reserved: tokens that these may come to hold.
    """

    def __init__(self, controller: Controller) -> None:
        self.waiting: dict[int, Sequence] = {}
        self.running = 0
        self.reserved = 0
        self._controller = controller
        self._config = config = controller.config
        self._sequences = inf if config.max_sequences is None else config.max_sequences
        self._tokens = inf if config.max_reserved_tokens is None else config.max_reserved_tokens
        self._queue = inf if config.max_queue is None else config.max_queue
        self._earliest = inf

    def admit(self, event: Submitted, now: float) -> Submitted:
        """Take a request: its sequence is one of the controller's, or waits.

        Returns:
            The event as a log is to have it.

        Raises:
            InvalidRequestError: it cannot be served; names the field, what was given and the limit.
            BusyError: the queue is full.
        """
        controller, number, request = self._controller, event.sequence, event.request
        check_number(number, controller.sequences.keys() | self.waiting.keys())
        check_request(request, self._config)
        at_once = not self.waiting and self._fits(request.reserved)
        if not at_once and len(self.waiting) >= self._queue:
            controller.totals.refused()
            raise BusyError(
                f"{self.running} requests are under way and {len(self.waiting)} wait, the limit of those is "
                f"{self._queue}; try again later"
            )
        submitted = now - event.waited_ms
        sequence = Sequence(number, request, controller.control, self._config, controller.estimators, submitted, now)
        if at_once:
            return replace(event, claims=self._begin(sequence, event.claims, now))
        self.waiting[number] = sequence
        self._earliest = min(self._earliest, sequence.deadline())
        return event

    def next(self, now: float) -> Sequence | None:
        """Give the controller the first of those that wait, if it may begin."""
        if not self.waiting:
            return None
        first = next(iter(self.waiting.values()))
        if not self._fits(first.request.reserved):
            return None
        del self.waiting[first.number]
        first.aim()
        claims = self._begin(first, None, now)
        if first.request.record:
            request = Submitted(first.number, first.request, now - first.submitted, claims)
            self._controller.logs.resumed(request, now)
        return first

    def ended(self, sequence: Sequence) -> None:
        """A sequence of the controller's has ended."""
        self.running -= 1
        self.reserved -= sequence.request.reserved
        self._controller.totals.ended(sequence)

    def cancelled(self, number: int, now: float) -> list[Action]:
        """The client of a sequence that may wait no longer wants the answer."""
        sequence = self.waiting.pop(number, None)
        return [] if sequence is None else self._given_up(sequence, sequence.finish("cancelled", now))

    def deadline(self) -> float:
        """When the first of those that wait runs out of time, or sooner; infinity for never."""
        return self._earliest if self.waiting else inf

    def tick(self, now: float) -> list[Action]:
        """End those whose time has run out while they waited."""
        if now < self.deadline():
            return []
        actions: list[Action] = []
        for sequence in [each for each in self.waiting.values() if each.deadline() <= now]:
            del self.waiting[sequence.number]
            actions += self._given_up(sequence, sequence.tick(now))
        self._earliest = min((sequence.deadline() for sequence in self.waiting.values()), default=inf)
        return actions

    def _fits(self, tokens: int) -> bool:
        return self.running < self._sequences and self.reserved + tokens <= self._tokens

    def _begin(self, sequence: Sequence, claims: Claims | None, now: float) -> Claims:
        self.running += 1
        self.reserved += sequence.request.reserved
        self._controller.sequences[sequence.number] = sequence
        known = self._controller.prefixes.claims(sequence, now) if claims is None else claims
        sequence.remote.claims.update(known)
        if sequence.request.record:
            self._controller.logs.begin(sequence.number, now)
        return known

    def _given_up(self, sequence: Sequence, actions: list[Action]) -> list[Action]:
        self._controller.totals.ended(sequence)
        return actions


def check_request(request: Request, config: ControllerConfig) -> None:
    """Refuse a request that cannot be served.

    Raises:
        InvalidRequestError: names the field, what was given and the limit.
    """
    if not request.prompt:
        raise InvalidRequestError("prompt", "is empty; at least 1 token is needed")
    if request.max_tokens < 1:
        raise InvalidRequestError("max_tokens", f"{request.max_tokens} is below the limit of 1")
    total = len(request.prompt) + request.max_tokens
    if total > config.context:
        raise InvalidRequestError(
            "max_tokens",
            f"{len(request.prompt)} prompt tokens + {request.max_tokens} make {total}, "
            f"the context of the target is {config.context} tokens",
        )
    most = config.max_reserved_tokens
    if most is not None and total > most:
        raise InvalidRequestError(
            "max_tokens",
            f"{len(request.prompt)} prompt tokens + {request.max_tokens} make {total}, "
            f"the limit of all requests together (max_reserved_tokens) is {most}",
        )
    vocab = config.fingerprint.vocab_size
    for index, token in enumerate(request.prompt):
        if not 0 <= token < vocab:
            raise InvalidRequestError("input_ids", f"token {token} at {index} is outside 0 to {vocab - 1}")
    if not 0.0 <= request.deadline_ms < float("inf"):
        raise InvalidRequestError("deadline_ms", f"{request.deadline_ms} is not 0 (none) or a time in ms")
    if len(request.traceparent) > _MAX_TRACEPARENT or not request.traceparent.isascii():
        raise InvalidRequestError("traceparent", f"is not at most {_MAX_TRACEPARENT} ASCII characters")
    if len(request.conversation) > MAX_CONVERSATION:
        size = len(request.conversation)
        raise InvalidRequestError("conversation_id", f"{size} characters, the limit is {MAX_CONVERSATION}")
    check_sampling(request.sampling)
    check_options(request.options, vocab, request.max_tokens)
    if request.policy or request.parameters:
        make_policy(request.policy, request.parameters)

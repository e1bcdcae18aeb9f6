"""Runs a benchmark: every policy answers the same prompts, in turn, so that what else happens falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wanspec.bench.meter import Reading
from wanspec.bench.native import NATIVE, NativeTarget
from wanspec.bench.reference import Reference
from wanspec.bench.results import Sample, Usage
from wanspec.bench.session import TARGET_ONLY, Session
from wanspec.core.policies import POLICIES
from wanspec.errors import ServerError
from wanspec.exactness import Exactness
from wanspec.prompts import Prompt
from wanspec.simulation.setup import Contender

REFERENCES_AT_ONCE = 8
MOST_WARM_UPS = 12
SETTLE_MS = 50.0
"""Pause after requests, beside a round trip, in which the worker falls silent and its last bytes arrive."""
FEWEST_TOKENS = 2
WARM_UP_TOKENS = 16
"""Of an answer that is not counted, where the time of all is limited too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        contenders: the rows; one of policy ``target_native`` asks the engine itself.
        rtts_ms: round trips before the time scale.
        concurrencies: numbers of requests at once.
        prompts: what each contender answers at each round trip and concurrency.
        tokens: longest answer.
        warm_up: requests of each contender that are not counted, before each round trip.
        time_scale: stretches the round trip.
        answers: about as many of each contender at each place, where there are prompts for more; 0 for one a prompt.
    """

    contenders: tuple[Contender, ...]
    rtts_ms: tuple[float, ...]
    concurrencies: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    tokens: int
    warm_up: int = 1
    time_scale: float = 1.0
    answers: int = 0

    def groups(self, prompts: int, concurrency: int) -> list[list[int]]:
        """Which of so many prompts run at once, group after group."""
        groups = _groups(prompts, concurrency)
        return groups[: -(-self.answers // concurrency)] if self.answers else groups

    @property
    def requests(self) -> int:
        """How many answers there will be, references and warm-ups included."""
        counted = sum(len(self.groups(len(self.prompts), n)) * n for n in self.concurrencies)
        each = len(self.contenders) * len(self.rtts_ms) * (self.warm_up + counted)
        return len(self.prompts) + each


class Meters(Protocol):
    """What is read around requests (:class:`wanspec.bench.meter.Meter`)."""

    def read(self) -> Reading:
        """CPU time so far."""

    def wan_bytes(self) -> tuple[int, int] | None:
        """Bytes so far."""


class Runner:
    """Runs a plan on one endpoint.

    Attributes:
        samples, usages: what was measured.
        notes: what went otherwise than planned, in sentences.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        meter: Meters,
        set_rtt: Callable[[float], None] | None,
        *,
        tell: Callable[[int], None] = lambda done: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare.

        Args:
            session: the endpoint.
            plan: what to run; ``rtts_ms`` of one element where the round trip cannot be set.
            meter: read around each group of requests.
            set_rtt: sets the WAN's round trip, ms as they pass; None where it is as it is.
            tell: told of answers that are done.
            say: told what comes next.
        """
        self._session, self._plan, self._meter, self._set_rtt = session, plan, meter, set_rtt
        self._tell, self._say = tell, say
        self._native = NativeTarget(session)
        self._references: dict[int, list[int]] = {}
        self._stopped: set[int] = set()
        self.notes: list[str] = []
        self.samples: list[Sample] = []
        self.usages: list[Usage] = []

    def run(self) -> None:
        """Run it all.

        Raises:
            ServerError: an answer failed or did not come, or no prompt gives an answer of two tokens.
            InvalidRequestError: the endpoint refused a request.
            ModelError: outputs differ, and the target is not at hand to judge.
        """
        self._refer()
        for rtt in self._plan.rtts_ms:
            self._say(f"RTT {rtt:g} ms: warming up")
            self._warm_up(rtt)
            for concurrency in self._plan.concurrencies:
                self._say(f"RTT {rtt:g} ms, {concurrency} at once: measuring")
                for turn, group in enumerate(self._plan.groups(len(self._references), concurrency)):
                    numbers = [sorted(self._references)[index] for index in group]
                    for contender in _rotated(self._plan.contenders, turn):
                        self._measure(contender, numbers, rtt, concurrency)

    def _refer(self) -> None:
        """Let the target alone answer each prompt: the reference, which fills the caches for all policies alike."""
        numbers = range(len(self._plan.prompts))
        # Where results depend on the shape of a batch, references are made one at a time, as most answers are.
        at_once = max(REFERENCES_AT_ONCE, *self._plan.concurrencies) if self._session.strict else 1
        for start in range(0, len(numbers), at_once):
            chosen = numbers[start : start + at_once]
            for number, (tokens, summary) in zip(chosen, self._ask(Contender(TARGET_ONLY), chosen), strict=True):
                if len(tokens) < FEWEST_TOKENS:
                    self.notes.append(f"Prompt {number} is left out: its answer has {len(tokens)} tokens.")
                    continue
                self._references[number] = tokens
                if summary["finish_reason"] == "stop":
                    self._stopped.add(number)
        if any(contender.policy == NATIVE for contender in self._plan.contenders):
            for number in self._references:  # now, lest these requests be measured with the engine's
                self._session.prompt_ids(self._plan.prompts[number].text(self._session.chat))
        if not self._references:
            raise ServerError("no prompt has an answer of two tokens; the model ends at once: try --ignore-end")

    def _warm_up(self, rtt_ms: float) -> None:
        """Ask by every policy once or more, until the endpoint has measured the new round trip."""
        if self._set_rtt is not None:
            self._set_rtt(rtt_ms * self._plan.time_scale)
        numbers = sorted(self._references)
        most_tokens = WARM_UP_TOKENS if self._plan.answers else None
        for contender in self._plan.contenders:
            for turn in range(self._plan.warm_up):
                self._ask(contender, [numbers[turn % len(numbers)]], most=most_tokens)
        split = next((each for each in self._plan.contenders if _uses_worker(each)), None)
        if split is None or self._set_rtt is None:
            return
        least, most = 0.9 * rtt_ms * self._plan.time_scale, 1.5 * rtt_ms * self._plan.time_scale + 10.0
        for turn in range(MOST_WARM_UPS):
            ((_, summary),) = self._ask(split, [numbers[turn % len(numbers)]], tell=False, most=most_tokens)
            if summary["rtt_ms"] is not None and least <= summary["rtt_ms"] <= most:
                return
        found = f"{summary['rtt_ms']:.0f} ms" if summary["rtt_ms"] is not None else "none"
        self.notes.append(f"At RTT {rtt_ms:g} ms the endpoint measured {found}, unscaled, after the warm-up.")

    def _measure(self, contender: Contender, numbers: Sequence[int], rtt_ms: float, concurrency: int) -> None:
        place = contender.name, rtt_ms, concurrency
        sent, before, began = self._meter.wan_bytes(), self._meter.read(), time.perf_counter()
        answers = self._ask(contender, numbers)
        wall_ms, after = 1e3 * (time.perf_counter() - began), self._meter.read()
        time.sleep((SETTLE_MS + rtt_ms * self._plan.time_scale) / 1e3)
        came = self._meter.wan_bytes() if contender.policy != NATIVE else None
        up, down = (None, None) if sent is None or came is None else (came[0] - sent[0], came[1] - sent[1])
        for number, (tokens, summary) in zip(numbers, answers, strict=True):
            found, category = self._check(contender, number, tokens), self._plan.prompts[number].category
            exact = self._session.holds(found)
            self.samples.append(Sample(*place, number, category, summary, exact, len(found.divergences)))
        cpu = {name: ms - before.cpu_ms.get(name, ms) for name, ms in after.cpu_ms.items()}
        passed = max(1.0, after.all_ms - before.all_ms)
        self.usages.append(
            Usage(
                *place,
                wall_ms,
                tokens=sum(summary["output_tokens"] for _, summary in answers),
                rounds=sum(summary["rounds"] for _, summary in answers),
                wan_up=up,
                wan_down=down,
                cpu_ms={name: round(ms, 1) for name, ms in cpu.items()},
                busy=(after.busy_ms - before.busy_ms) / passed,
                own_busy=sum(cpu.values()) / passed,
                gpu={
                    name: [a - b for a, b in zip(use, before.gpu[name], strict=True)] for name, use in after.gpu.items()
                },
            )
        )

    def _ask(
        self, contender: Contender, numbers: Sequence[int], *, tell: bool = True, most: int | None = None
    ) -> list[tuple[list[int], dict[str, Any]]]:
        """Ask prompts at once; return tokens and summary of each."""
        if contender.policy == NATIVE:
            found = self._ask_engine(numbers)
        else:
            pending = []
            try:
                for number in numbers:
                    text = self._plan.prompts[number].text(self._session.chat)
                    count = most or self._plan.tokens
                    asked = self._session.ask(text, contender.policy, contender.parameters, count)
                    pending.append(asked)
                answers = [each.result() for each in pending]
            finally:
                for each in pending:  # after a failure or Ctrl-C the others end too, in both regions
                    each.cancel()
            found = [(answer.tokens, answer.summary) for answer in answers]
        if tell:
            self._tell(len(numbers))
        return found

    def _ask_engine(self, numbers: Sequence[int]) -> list[tuple[list[int], dict[str, Any]]]:
        prompts = [self._session.prompt_ids(self._plan.prompts[n].text(self._session.chat)) for n in numbers]
        # As many steps as the reference took: where that ended by itself, one more for the end token.
        counts = [len(self._references[n]) + (n in self._stopped) for n in numbers]
        found = self._native.generate(prompts, counts)
        return [
            (tokens[: len(self._references[n])], summary | {"output_tokens": len(self._references[n])})
            for n, (tokens, summary) in zip(numbers, found, strict=True)
        ]

    def _check(self, contender: Contender, number: int, tokens: list[int]) -> Exactness:
        prompt, expected = self._plan.prompts[number].text(self._session.chat), self._references[number]
        if contender.policy != NATIVE:
            return self._session.check(prompt, expected, tokens, contender.policy, contender.parameters)
        return Reference(self._session, prompt, expected).check(
            tokens, lambda ids, count: self._native.generate([ids], [count])[0][0]
        )


def _groups(prompts: int, concurrency: int) -> list[list[int]]:
    """Split prompts into groups of as many as run at once; the last one is filled from the beginning."""
    starts = range(0, prompts, concurrency)
    return [[(start + place) % prompts for place in range(concurrency)] for start in starts]


def _rotated(contenders: Sequence[Contender], turn: int) -> Iterator[Contender]:
    first = turn % len(contenders)
    yield from contenders[first:]
    yield from contenders[:first]


def _uses_worker(contender: Contender) -> bool:
    return contender.policy in POLICIES and POLICIES[contender.policy].uses_worker

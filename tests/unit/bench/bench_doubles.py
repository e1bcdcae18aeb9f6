"""Samples, usages and an endpoint that answers at once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from wanspec.bench.meter import Reading
from wanspec.bench.results import Conditions, Results, Sample, Usage
from wanspec.core.rounds import Tally
from wanspec.exactness import Divergence, Exactness

CONDITIONS = Conditions(
    "2026-11-24", "a machine", "one and another", "float64", "paper-cloud", (23.4, 7.5, 7.5), 2.0, 10, "local"
)


def summary(latency_ms=2000.0, tokens=10, **changes):
    """Of an answer measured at time scale 2."""
    tally = Tally(rounds=5, local_draft_passes=8, target_ms=234.0, local_draft_ms=120.0)
    values = {
        "policy": "x",
        "finish_reason": "length",
        "output_tokens": tokens,
        "latency_ms": latency_ms,
        "ttft_ms": 200.0,
        "rtt_ms": 60.0,
        "pass_ms": 15.0,
        **tally.as_dict(),
    }
    return values | changes


def sample(policy="local", prompt=0, rtt_ms=30.0, concurrency=1, exact=True, **changes):
    return Sample(policy, rtt_ms, concurrency, prompt, "math", summary(**changes), exact, divergences=0 if exact else 1)


def usage(policy="local", rtt_ms=30.0, concurrency=1, **changes):
    values = {"wall_ms": 2000.0, "tokens": 10, "rounds": 5, "wan_up": 100, "wan_down": 400, "busy": 0.25} | changes
    return Usage(policy, rtt_ms, concurrency, **values)


def results(samples, usages=None, **conditions):
    usages = usages or [usage(*key) for key in dict.fromkeys((s.policy, s.rtt_ms, s.concurrency) for s in samples)]
    return Results(replace(CONDITIONS, **conditions), tuple(samples), tuple(usages))


class FakePending:
    def __init__(self, session, tokens, told):
        self._session, self._answer = session, SimpleNamespace(tokens=tokens, summary=told)
        self.cancelled = False
        session.pending.append(self)

    def result(self):
        if self._session.fails is not None:
            raise self._session.fails
        return self._answer

    def cancel(self):
        self.cancelled = True


class FakeSession:
    """Answers every prompt with its own three tokens; ``wrong`` is a policy that answers with others."""

    chat = False
    strict = True
    url = "127.0.0.1:1"
    target_model = "target"
    parameters: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, wrong="", rtts=(60.0,), short=""):
        self.wrong, self.short = wrong, short
        self.rtts = list(rtts)
        self.asked = []
        self.pending = []
        self.fails = None

    def ask(self, prompt, policy, parameters=None, max_tokens=None):
        self.asked.append((policy, prompt))
        tokens = [] if prompt == self.short else [ord(letter) for letter in prompt[:3]]
        if policy == self.wrong:
            tokens = [0, *tokens[1:]]
        rtt = self.rtts.pop(0) if len(self.rtts) > 1 else self.rtts[0]
        return FakePending(self, tokens, summary(rtt_ms=rtt, tokens=len(tokens)))

    def check(self, prompt, expected, tokens, policy, parameters=None):
        same = list(expected) == list(tokens)
        return Exactness(len(expected), () if same else (Divergence(0, expected[0], tokens[0], 1.0),))

    def holds(self, exactness):
        return exactness.identical


class FakeMeter:
    """Every reading is a step further."""

    def __init__(self):
        self.reads = 0

    def read(self):
        self.reads += 1
        return Reading({"controller": 10.0 * self.reads}, 5.0 * self.reads, 10.0 * self.reads)

    def wan_bytes(self):
        return 100 * self.reads, 200 * self.reads

"""What an experiment is made of, and what it measures of each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from wanspec.simulation.gpu import Costs
from wanspec.simulation.models import Pair
from wanspec.simulation.weather import Weather

Parameters = Mapping[str, float | int | str]

DEEDS = ("crash", "restart", "cut", "mend", "silence", "speak")


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy with its parameters, as one row of a table.

    Attributes:
        policy: name in ``wanspec.core.policies.POLICIES``.
        parameters: those that are not at their defaults.
        label: what the row is called; the policy's name if empty.
    """

    policy: str
    parameters: Parameters = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """The row's name."""
        return self.label or self.policy


@dataclass(frozen=True, slots=True)
class Setup:
    """All of an experiment but the policy. Times in ms.

    Attributes:
        pair: target and draft.
        costs: engine step times.
        weather: the network; its delay is replaced by ``rtt_ms`` / 2.
        rtt_ms: round-trip time of the WAN, without engines.
        jitter: each way takes ``rtt_ms`` / 2, more or less by up to this share of it, uniformly.
        leaves: most leaves in one worker pass.
        requests: how many are counted.
        tokens: length of each answer.
        concurrent: requests at once. If more than one, target and local draft of all share one GPU.
        max_batch_size: most requests in a pass of that GPU; 0 for no limit.
        temperature: of the requests; 0 is greedy.
        prompts: token ids; none for prompts of three tokens, each request its own.
        deeds: (ms after each request's submission, one of ``DEEDS``).
        pause_ms: from the end of a request to the next.
        seed: of prompts and network.
    """

    pair: Pair
    costs: Costs = field(default_factory=Costs)
    weather: Weather = field(default_factory=Weather)
    rtt_ms: float = 30.0
    jitter: float = 0.0
    leaves: int = 16
    requests: int = 200
    tokens: int = 100
    concurrent: int = 1
    max_batch_size: int = 0
    temperature: float = 0.0
    prompts: tuple[tuple[int, ...], ...] = ()
    deeds: tuple[tuple[float, str], ...] = ()
    pause_ms: float = 0.0
    seed: int = 1

    def prompt(self, number: int) -> tuple[int, ...]:
        """Prompt of a request; those of the warm-up have negative numbers."""
        if self.prompts:
            return self.prompts[number % len(self.prompts)]
        vocab = self.pair.vocab_size
        return (1 + self.seed % (vocab - 1), 1 + number % (vocab - 1), 1 + number % 7)


@dataclass(frozen=True, slots=True)
class Measured:
    """One request, as the controller's summary has it. Times in ms.

    Attributes:
        latency_ms: from submission to the last token.
        target_ms, draft_ms: engine times in the scarce region.
        gpu_ms: what the request took of the scarce GPU: its share of every pass it was part of.
        remote_passes, remote_nodes: of the worker.
        bytes_up, bytes_down: of messages, without gRPC and TCP framing.
    """

    latency_ms: float
    ttft_ms: float
    tokens: int
    rounds: int
    draft_passes: int
    target_ms: float
    draft_ms: float
    gpu_ms: float
    remote_passes: int
    remote_nodes: int
    waited_ms: float
    bytes_up: int
    bytes_down: int
    causes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def scarce_ms(self) -> float:
        """Time of the scarce region's GPU per committed token: target and local draft."""
        return self.gpu_ms / max(1, self.tokens)


def measured(summary: Mapping[str, object], gpu_ms: float) -> Measured:
    """Take what is measured out of a request's summary."""

    def number(name: str) -> float:
        value = summary[name]
        assert isinstance(value, (int, float))
        return value

    causes = summary["causes"]
    assert isinstance(causes, dict)
    return Measured(
        latency_ms=number("latency_ms"),
        ttft_ms=number("ttft_ms"),
        tokens=int(number("output_tokens")),
        rounds=int(number("rounds")),
        draft_passes=int(number("local_draft_passes")),
        target_ms=number("target_ms"),
        draft_ms=number("local_draft_ms"),
        gpu_ms=gpu_ms,
        remote_passes=int(number("remote_draft_passes")),
        remote_nodes=int(number("remote_nodes")),
        waited_ms=number("waited_ms"),
        bytes_up=int(number("bytes_up")),
        bytes_down=int(number("bytes_down")),
        causes=dict(causes),
    )

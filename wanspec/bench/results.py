"""What a benchmark has measured: one sample a request, one usage for requests that ran at once. Times as measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wanspec.errors import ConfigError
from wanspec.exactness import TOKENS_PER_NEAR_TIE


@dataclass(frozen=True, slots=True)
class Conditions:
    """How it was measured.

    Attributes:
        date, machine: when and where.
        models: target and draft, as they were named.
        dtype: of the target.
        profile: name of the pace, empty where engines run as fast as they can.
        pace_ms: least step of target, local draft and worker, before ``time_scale``; zeros without.
        time_scale: paces and delays are so many times longer than stated.
        max_tokens: longest answer.
        baseline: name of the row that ratios are against.
        network: what the emulated WAN does beside its delay, in words.
        notes: what a reader has to know besides.
        shared_gpu: target and local draft took turns on one GPU.
        max_batch_size: most requests in one of its passes; 0 for no limit.
        k: drafts of the baseline.
    """

    date: str
    machine: str
    models: str
    dtype: str
    profile: str
    pace_ms: tuple[float, float, float]
    time_scale: float
    max_tokens: int
    baseline: str
    network: str = ""
    notes: tuple[str, ...] = ()
    shared_gpu: bool = False
    k: int = 2
    max_batch_size: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    Attributes:
        policy: name of the row.
        rtt_ms: as asked for, before the time scale.
        concurrency: how many requests ran at once.
        prompt: its number.
        category: of the prompt.
        summary: the endpoint's (``docs/endpoint.md``).
        exact: the output is the target's own.
        divergences: tokens that differ, near-ties of float32 if ``exact``.
    """

    policy: str
    rtt_ms: float
    concurrency: int
    prompt: int
    category: str
    summary: dict[str, Any]
    exact: bool
    divergences: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What requests that ran at once used together.

    Attributes:
        wall_ms: from the first question to the last answer, at the client.
        tokens, rounds: of all of them.
        wan_up, wan_down: bytes on the wire to the worker and back, frames of gRPC, TLS and pings included; None if
            unknown.
        cpu_ms: by process; empty if unknown.
        busy: share of this machine's cores in use, by whomever.
        own_busy: the part of it that is the deployment's processes; 0 if unknown.
        gpu: by engine, milliseconds, passes and requests in them (:class:`wanspec.engines.shared_gpu.GpuUse`), where
            target and local draft share a GPU.
    """

    policy: str
    rtt_ms: float
    concurrency: int
    wall_ms: float
    tokens: int
    rounds: int
    wan_up: int | None = None
    wan_down: int | None = None
    cpu_ms: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0
    own_busy: float = 0.0
    gpu: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """All of it."""

    conditions: Conditions
    samples: tuple[Sample, ...]
    usages: tuple[Usage, ...]

    @property
    def exact(self) -> bool:
        """Every output is the target's own, and near-ties of floating point are no more than the rule allows."""
        return all(sample.exact for sample in self.samples) and not self.too_many_near_ties

    @property
    def too_many_near_ties(self) -> bool:
        """Whether there are more than :mod:`wanspec.exactness` allows in so many tokens."""
        tokens = sum(int(sample.summary["output_tokens"]) for sample in self.samples)
        return sum(sample.divergences for sample in self.samples) > max(1, tokens // TOKENS_PER_NEAR_TIE)

    def save(self, path: Path) -> None:
        """Write JSON lines that :func:`load` reads."""
        lines = [{"conditions": asdict(self.conditions)}]
        lines += [{"sample": asdict(sample)} for sample in self.samples]
        lines += [{"usage": asdict(usage)} for usage in self.usages]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def load(paths: Sequence[Path]) -> Results:
    """Read saved results and put them together.

    Raises:
        ConfigError: a file is not readable, or was measured under other conditions than the first.
    """
    parts = [_read(path) for path in paths]
    first = parts[0].conditions
    for path, part in zip(paths, parts, strict=True):
        for name, value in asdict(replace(part.conditions, notes=first.notes, date=first.date)).items():
            if value != asdict(first)[name]:
                raise ConfigError(
                    "load", f"{path}: its {name} is {value!r}, not {asdict(first)[name]!r} as the first's"
                )
    _refuse_twice(paths, parts)
    notes = tuple(dict.fromkeys(note for part in parts for note in part.conditions.notes))
    return Results(
        replace(first, notes=notes),
        tuple(sample for part in parts for sample in part.samples),
        tuple(usage for part in parts for usage in part.usages),
    )


def _refuse_twice(paths: Sequence[Path], parts: Sequence[Results]) -> None:
    """Rows of the same name at the same place would be taken for one, with every prompt twice."""
    seen: dict[tuple[str, float, int], Path] = {}
    for path, part in zip(paths, parts, strict=True):
        for row in {(sample.policy, sample.rtt_ms, sample.concurrency) for sample in part.samples}:
            if row in seen:
                policy, rtt_ms, concurrency = row
                where = f"{policy} at {rtt_ms:g} ms, {concurrency} at once"
                raise ConfigError("load", f"{path}: {where} is in {seen[row]} too; measure policies in one run")
            seen[row] = path


def _read(path: Path) -> Results:
    conditions: Conditions | None = None
    samples, usages = [], []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            ((kind, values),) = json.loads(line).items()
            if kind == "conditions":
                values |= {"pace_ms": tuple(values["pace_ms"]), "notes": tuple(values["notes"])}
                conditions = Conditions(**values)
            elif kind == "sample":
                samples.append(Sample(**values))
            else:
                usages.append(Usage(**values))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError("loaded", f"{path} is not what --save writes: {error}") from error
    if conditions is None:
        raise ConfigError("loaded", f"{path} is not what --save writes: it has no conditions")
    if not samples or not usages:
        raise ConfigError("loaded", f"{path} is not what --save writes: it has no answers")
    return Results(conditions, tuple(samples), tuple(usages))

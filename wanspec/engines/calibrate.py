"""Measure what passes of an engine cost on this machine. ``wanspec.engines.stored_costs`` keeps the result."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wanspec.core.costs import CostModel, CostTable
from wanspec.core.drafting import DraftEngine, SequenceLeaves
from wanspec.engines.contract import GenerationEngine, GenerationRequest, GenerationResult, generate
from wanspec.errors import ConfigError, EngineError

Measure = Callable[[int, int], float]
"""(count, context) to ms: one pass."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where to measure. Points beyond the engine's context are left out.

    Attributes:
        counts: rows with logits: leaves, or one token and its drafts.
        prefills: new tokens of one sequence, at the first two contexts only: each needs a prefix to be computed anew.
        contexts: cached tokens.
        repeats: how often each point is measured; the median counts.
    """

    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    prefills: tuple[int, ...] = (1, 16, 64, 256)
    contexts: tuple[int, ...] = (32, 256, 1024, 4096)
    repeats: int = 9


class Progress(Protocol):
    """Told how far a calibration is."""

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` measurements."""
        ...


def _silent(done: int, total: int) -> None:
    pass


def calibrate_draft(
    engine: DraftEngine,
    grid: Grid | None = None,
    *,
    about: Mapping[str, str] | None = None,
    progress: Progress = _silent,
) -> CostModel:
    """Measure a draft engine: passes over leaves of one tree, and over new tokens of a prefix.

    Args:
        engine: what to measure; used by no one else meanwhile.
        grid: where.
        about: kept with the result; see :attr:`CostModel.engine`.
        progress: told how far it is.

    Raises:
        EngineError: a pass failed.
        ConfigError: no point of the grid fits the engine's context.
    """
    tokens = _tokens(engine.context, engine.vocab_size)
    stepped: set[int] = set()

    def step(leaves: int, context: int) -> float:
        paths = tuple((leaf % engine.vocab_size,) for leaf in range(leaves))
        # A sequence for each context: its prefix is cached by the first of the repeats, and only leaves computed then.
        engine.expand([SequenceLeaves(("step", context), tokens, context, ((),))], 1)
        stepped.add(context)
        return engine.expand([SequenceLeaves(("step", context), tokens, context, paths)], 2).engine_ms

    def prefill(count: int, context: int) -> float:
        engine.release("prefill")
        engine.expand([SequenceLeaves("prefill", tokens, context, ((),))], 1)
        return engine.expand([SequenceLeaves("prefill", tokens, context + count, ((),))], 2).engine_ms

    try:
        return _calibrate(engine.context, min(engine.vocab_size, engine.context), step, prefill, grid, about, progress)
    finally:
        for context in stepped:
            engine.release(("step", context))
        engine.release("prefill")


def calibrate_target(
    engine: GenerationEngine,
    max_draft_len: int,
    context: int,
    grid: Grid | None = None,
    *,
    about: Mapping[str, str] | None = None,
    progress: Progress = _silent,
) -> CostModel:
    """Measure an engine of the contract: verifications by length after a cached prefix, and prefill.

    Args:
        engine: what to measure; used by no one else meanwhile.
        max_draft_len: its limit; 0 measures a plain step only.
        context: its max_seq_len.
        grid: where.
        about: kept with the result; see :attr:`CostModel.engine`.
        progress: told how far it is.

    Raises:
        EngineError: a pass failed.
        ConfigError: no point of the grid fits the context.
    """
    tokens = np.asarray(_tokens(context, engine.vocab_size), dtype=np.int32)
    fresh = np.random.default_rng(1)

    def step(rows: int, context: int) -> float:
        request = GenerationRequest(tokens[: context + 1], rows, tokens[context + 1 : context + rows])
        if rows == 1:
            request = GenerationRequest(tokens[: context + 1], 1)
        # The first computes the prefix.
        _engine_ms(engine, GenerationRequest(tokens[: context + 1], 1))
        return _engine_ms(engine, request)

    def prefill(count: int, context: int) -> float:
        _engine_ms(engine, GenerationRequest(tokens[: context + 1], 1))
        new: NDArray[np.int32] = fresh.integers(0, engine.vocab_size, count).astype(np.int32)
        # Different in its first token, so that nothing of an earlier measurement is reused.
        new[0] = (int(tokens[context]) + 1 + int(new[0]) % (engine.vocab_size - 1)) % engine.vocab_size
        return _engine_ms(engine, GenerationRequest(np.concatenate((tokens[:context], new)), 1))

    return _calibrate(context, max_draft_len + 1, step, prefill, grid, about, progress)


def _calibrate(
    context: int,
    most: int,
    step: Measure,
    prefill: Measure,
    grid: Grid | None,
    about: Mapping[str, str] | None,
    progress: Progress,
) -> CostModel:
    grid = grid or Grid()
    counts = [count for count in grid.counts if count <= most] or [1]
    contexts = [place for place in grid.contexts if place + counts[-1] < context]
    if not contexts:
        raise ConfigError(
            "grid.contexts", f"{list(grid.contexts)} with {counts[-1]} rows do not fit a context of {context}"
        )
    prefills = [count for count in grid.prefills if contexts[-1] + count < context] or [1]
    points = [(step, count, place) for count in counts for place in contexts]
    points += [(prefill, count, place) for count in prefills for place in contexts[:2]]
    samples: dict[int, list[float]] = {index: [] for index in range(len(points))}
    # Repeats outside, so that drift of the machine meets all points alike; the first warms up.
    for repeat in range(grid.repeats + 1):
        for index, (measure, count, place) in enumerate(points):
            value = measure(count, place)
            if repeat:
                samples[index].append(value)
            progress(repeat * len(points) + index + 1, (grid.repeats + 1) * len(points))
    medians = [statistics.median(samples[index]) for index in range(len(points))]
    split = len(counts) * len(contexts)
    return CostModel(
        _table(counts, contexts, medians[:split]), _table(prefills, contexts[:2], medians[split:]), dict(about or {})
    )


def _table(counts: Sequence[int], contexts: Sequence[int], values: Sequence[float]) -> CostTable:
    measured = np.array(values).reshape(len(counts), len(contexts))
    # A pass that does less is not dearer than one that does more: where it seems so, something else ran meanwhile.
    least = np.minimum.accumulate(np.minimum.accumulate(measured[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
    return CostTable(tuple(counts), tuple(contexts), tuple(map(tuple, least.round(4).tolist())))


def _tokens(count: int, vocab_size: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(0).integers(0, vocab_size, count).tolist()
    return tokens


def _engine_ms(engine: GenerationEngine, request: GenerationRequest) -> float:
    (result,) = generate(engine, [request])
    if not isinstance(result, GenerationResult):
        raise EngineError(f"calibration: {result}") from result
    return (result.timings.last_token_ns - result.timings.first_scheduled_ns) / 1e6

"""Records a pair: the target's greedy text, the draft's children along it, and those of the branches beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from wanspec.core.drafting import SequenceLeaves
from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree import TreeDraftEngine
from wanspec.errors import EngineError
from wanspec.simulation.traces import Branch, TraceRow, TraceText


@dataclass(frozen=True, slots=True)
class Width:
    """How much of the draft is recorded.

    Attributes:
        top: children of each context.
        branches: most contexts one token off the text, at each of its tokens; half as many at each further level.
        depth: how deep they go.
        floor: contexts less probable than this, from where they leave the text on, are left out.
    """

    top: int = 4
    branches: int = 12
    depth: int = 4
    floor: float = 0.02


def record(
    target: TorchModel,
    draft: TorchModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    width: Width = Width(),  # frozen
    progress: Callable[[int], None] = lambda done: None,
) -> list[TraceText]:
    """Record prompts, several in each pass.

    Args:
        target, draft: loaded models of one vocabulary.
        prompts: token ids.
        tokens: how many to generate after each, past any end of text.
        width: how much of the draft to record.
        progress: told of positions that are done, over all prompts together.

    Raises:
        EngineError: an engine failed.
    """
    outputs = _write(target, prompts, tokens)
    engine = TreeDraftEngine(draft)
    texts = [
        TraceText(tuple(prompt), tuple(ids), tuple(log_probs), (), {})
        for prompt, (ids, log_probs) in zip(prompts, outputs, strict=True)
    ]
    rows: list[list[TraceRow]] = [[] for _ in texts]
    for place in range(tokens):
        found = _expand(engine, texts, place, [[()] for _ in texts], width.top)
        for number, (row,) in enumerate(found):
            rows[number].append(row)
        _branches(engine, texts, place, [row for (row,) in found], width)
        progress(len(texts))
    return [
        TraceText(text.prompt, text.output, text.log_probs, tuple(rows[number]), text.branches)
        for number, text in enumerate(texts)
    ]


def _write(target: TorchModel, prompts: Sequence[Sequence[int]], tokens: int) -> list[tuple[list[int], list[float]]]:
    requests = [
        GenerationRequest(np.asarray(prompt, dtype=np.int32), tokens, return_log_probs=True) for prompt in prompts
    ]
    outputs = []
    for result in TorchEngine(target).generate(requests):
        if not isinstance(result, GenerationResult) or result.log_probs is None:
            raise EngineError(f"the target failed: {result}")
        outputs.append((result.output_ids.tolist(), [round(float(value), 4) for value in result.log_probs]))
    return outputs


def _branches(
    engine: TreeDraftEngine, texts: Sequence[TraceText], place: int, rows: Sequence[TraceRow], width: Width
) -> None:
    """Record the most probable contexts beside the text below one token of it, level by level."""
    level: list[list[tuple[Branch, float]]] = [
        [(path, p) for path, p in _children((), 1.0, row, width) if path[0] != text.output[place]]
        for text, row in zip(texts, rows, strict=True)
    ]
    for depth in range(width.depth):
        kept = [sorted(paths, key=lambda item: -item[1])[: width.branches >> depth] for paths in level]
        if not any(kept):
            return
        found = _expand(engine, texts, place, [[path for path, _ in paths] for paths in kept], width.top)
        level = []
        for text, paths, results in zip(texts, kept, found, strict=True):
            level.append([])
            for (path, probability), row in zip(paths, results, strict=True):
                text.branches[place, path] = row
                level[-1] += _children(path, probability, row, width)


def _children(path: Branch, probability: float, row: TraceRow, width: Width) -> list[tuple[Branch, float]]:
    children = [
        ((*path, token), probability * exp(log_prob)) for token, log_prob in zip(row.tokens, row.log_probs, strict=True)
    ]
    return [child for child in children if child[1] >= width.floor]


def _expand(
    engine: TreeDraftEngine, texts: Sequence[TraceText], place: int, leaves: Sequence[Sequence[Branch]], top: int
) -> list[list[TraceRow]]:
    batch = [
        SequenceLeaves(number, (*text.prompt, *text.output), len(text.prompt) + place, tuple(paths))
        for number, (text, paths) in enumerate(zip(texts, leaves, strict=True))
        if paths
    ]
    result = engine.expand(batch, top)
    rows = iter(zip(result.tokens.tolist(), result.log_probs.tolist(), result.entropies.tolist(), strict=True))
    return [[TraceRow(tuple(t), tuple(p), e) for _, (t, p, e) in zip(paths, rows, strict=False)] for paths in leaves]

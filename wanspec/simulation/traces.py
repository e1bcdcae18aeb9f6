"""Recorded pairs: what a real target wrote, and what its draft says on that text and beside it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.sampling import GREEDY, Sampling
from wanspec.errors import ConfigError
from wanspec.simulation.sources import context_word

TRACE_VERSION = 1

Branch: TypeAlias = tuple[int, ...]
"""Token ids below the text."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """What the draft says in one context: its best children with natural log-probabilities, and the entropy in nats."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    entropy: float


@dataclass(frozen=True, slots=True)
class TraceText:
    """One prompt with what the target wrote after it, greedily.

    Attributes:
        prompt, output: token ids.
        log_probs: of the output's tokens under the target.
        rows: the draft's, after the prompt and each output token but the last.
        branches: the draft's beside the text, by (output tokens before the branch, the branch's own tokens).
    """

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    log_probs: tuple[float, ...]
    rows: tuple[TraceRow, ...]
    branches: dict[tuple[int, Branch], TraceRow] = field(default_factory=dict)


@dataclass(slots=True)
class TracePair:
    """A recorded pair as a source. A request's prompt begins with the number of its text instead of its first token.

    Attributes:
        texts: what was recorded.
        vocab_size: token ids are below it.
        described: how it was recorded: models, dtype and so on.
        looked_up, invented: contexts asked of the draft, and those beside the text that were not recorded: what a
            recorded branch says stands in for them.
    """

    texts: tuple[TraceText, ...]
    vocab_size: int
    described: dict[str, str] = field(default_factory=dict)
    looked_up: int = 0
    invented: int = 0

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """Prompts of the requests."""
        return tuple((number, *text.prompt[1:]) for number, text in enumerate(self.texts))

    @property
    def length(self) -> int:
        """Tokens of the shortest text."""
        return min(len(text.output) for text in self.texts)

    @property
    def match_rate(self) -> float:
        """Share of the text's tokens that are the draft's first child."""
        hits = [
            row.tokens[0] == token for text in self.texts for row, token in zip(text.rows, text.output, strict=True)
        ]
        return sum(hits) / len(hits)

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token. What was verified before is on the text, whatever was drafted."""
        text = self.texts[tokens[0]]
        return text.output[len(tokens) - len(text.prompt)]

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """What the target says of its choice."""
        text = self.texts[tokens[0]]
        return text.log_probs[len(tokens) - len(text.prompt)]

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first."""
        text = self.texts[tokens[0]]
        row = self._row(text, 0, tuple(tokens[len(text.prompt) :]))
        return list(zip(row.tokens, row.log_probs, strict=True))[:top]

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        rows = []
        for item in batch:
            text = self.texts[item.prefix[0]]
            known = item.length - len(text.prompt)
            rows += [self._row(text, known, leaf) for leaf in item.leaves]
        return Expansion(
            np.array([row.tokens[:top] for row in rows], dtype=np.int32),
            np.array([row.log_probs[:top] for row in rows], dtype=np.float32),
            np.array([row.entropy for row in rows], dtype=np.float32),
            engine_ms,
        )

    def _row(self, text: TraceText, known: int, path: Branch) -> TraceRow:
        """What the draft says after ``known`` tokens of the text and ``path``."""
        self.looked_up += 1
        on = 0
        while on < len(path) and known + on < len(text.output) and path[on] == text.output[known + on]:
            on += 1
        place = known + on
        if on == len(path) and place < len(text.rows):
            return text.rows[place]
        row = text.branches.get((place, path[on:]))
        if row is not None:
            return row
        self.invented += 1
        others = list(text.branches.values()) or list(text.rows)
        return others[context_word(0, place, path[-1] if path else 0, len(path)) % len(others)]


def write_trace(path: Path, pair: TracePair) -> None:
    """Write a recorded pair, compressed.

    Raises:
        ConfigError: it cannot be written.
    """
    head = {"trace": TRACE_VERSION, "vocab_size": pair.vocab_size, "described": pair.described}
    try:
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(json.dumps(head) + "\n")
            for text in pair.texts:
                file.write(json.dumps(_plain(text), separators=(",", ":")) + "\n")
    except OSError as error:
        raise ConfigError("out", f"{path} cannot be written: {error}") from error


def read_trace(path: Path) -> TracePair:
    """Read a recorded pair.

    Raises:
        ConfigError: it cannot be read, or is of another version.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            head = json.loads(file.readline())
            if head["trace"] != TRACE_VERSION:
                raise ConfigError("trace", f"{path}: version {head['trace']}, this program reads {TRACE_VERSION}")
            texts = tuple(_text(json.loads(line)) for line in file)
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("trace", f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not texts:
        raise ConfigError("trace", f"{path} holds no text")
    return TracePair(texts, head["vocab_size"], head["described"])


def _plain(text: TraceText) -> dict[str, Any]:
    plain = asdict(text)
    plain["rows"] = [_plain_row(row) for row in text.rows]
    plain["branches"] = [[place, path, *_plain_row(row)] for (place, path), row in text.branches.items()]
    return plain


def _plain_row(row: TraceRow) -> list[Any]:
    return [row.tokens, [round(value, 4) for value in row.log_probs], round(row.entropy, 4)]


def _text(plain: dict[str, Any]) -> TraceText:
    return TraceText(
        tuple(plain["prompt"]),
        tuple(plain["output"]),
        tuple(plain["log_probs"]),
        tuple(_row_of(row) for row in plain["rows"]),
        {(place, tuple(path)): _row_of(row) for place, path, *row in plain["branches"]},
    )


def _row_of(values: Iterable[Any]) -> TraceRow:
    tokens, log_probs, entropy = values
    return TraceRow(tuple(tokens), tuple(log_probs), entropy)

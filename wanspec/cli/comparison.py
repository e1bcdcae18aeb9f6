"""What ``wanspec demo`` concludes from its runs: figures by policy, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from wanspec.cli.render import ms_per_token
from wanspec.cli.tables import table
from wanspec.exactness import Exactness

SAME_SPEED = 0.03
"""Differences of latency within this share are called "as fast": two runs on a shared machine differ as much."""


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: who decoded it, which prompt, and the endpoint's summary of it (``docs/endpoint.md``)."""

    policy: str
    prompt: int
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one policy: medians over its runs for times, sums for counts.

    Attributes:
        ms_per_token: latency of a whole answer by its tokens.
        ttft_ms: time to first token.
        engine_ms_per_token: time of the scarce region's engines (target and local draft) by tokens.
        output: whether the tokens are the target's own.
    """

    policy: str
    ms_per_token: float
    ttft_ms: float
    rounds: int
    tokens: int
    local_draft_passes: int
    remote_draft_passes: int
    drafted_remote: int
    accepted_remote: int
    accepted_local: int
    engine_ms_per_token: float
    output: str

    @property
    def tokens_per_round(self) -> float:
        """Committed tokens by verification."""
        return self.tokens / max(1, self.rounds)


def figures(policy: str, runs: Sequence[Run], exactness: Exactness | None) -> Figures:
    """Put one policy's runs together. ``exactness``: None for the reference itself."""
    mine = [run.summary for run in runs if run.policy == policy]

    def total(name: str) -> int:
        return sum(int(summary[name]) for summary in mine)

    return Figures(
        policy=policy,
        ms_per_token=round(median(ms_per_token(summary) for summary in mine), 2),
        ttft_ms=round(median(float(summary["ttft_ms"] or 0.0) for summary in mine), 1),
        rounds=total("rounds"),
        tokens=total("output_tokens"),
        local_draft_passes=total("local_draft_passes"),
        remote_draft_passes=total("remote_draft_passes"),
        drafted_remote=total("drafted_remote"),
        accepted_remote=total("accepted_remote"),
        accepted_local=total("accepted_local"),
        engine_ms_per_token=round(median(_engine_ms_per_token(summary) for summary in mine), 2),
        output=_output(exactness),
    )


def verdict(split: Figures, local: Figures, target_only: Figures) -> str:
    """Say what the split saved against single-region speculative decoding, and whether it was faster or slower."""
    passes, engine = local.local_draft_passes, local.engine_ms_per_token
    saved = passes - split.local_draft_passes
    kind = "saved" if saved >= 0 else "cost another"
    share = f" ({abs(saved) / passes:.0%})" if passes else ""
    ratio = split.engine_ms_per_token / engine if engine else 1.0
    speed = ("faster", "slower", "as fast")
    return (
        f"Against `local`, the WAN split {kind} {abs(saved)} of {passes} draft passes in the scarce region{share}, "
        f"used {_relative(ratio, 'less', 'more', 'as much')} engine time there, and was "
        f"{_relative(split.ms_per_token / local.ms_per_token, *speed)}; against `target_only` it was "
        f"{_relative(split.ms_per_token / target_only.ms_per_token, *speed)}."
    )


def exactness_sentence(exactness: Exactness) -> str:
    """Say whether every policy's output is the target's own."""
    if exactness.identical:
        return f"Every policy's output is identical to the target's own: {exactness.tokens} tokens compared."
    places = ", ".join(f"token {each.position} (margin {each.margin:.1e})" for each in exactness.divergences)
    if exactness.holds:
        return (
            f"Outputs part at {places}: near-ties of float32, where the target itself has no preference above 1e-3. "
            "By the rule for float32 the output is the target's own; in float64 it is so bit by bit."
        )
    return (
        f"NOT the target's own output: it parts at {places}, which no near-tie of float32 explains. Please report it."
    )


def figures_table(rows: Sequence[Figures]) -> Table:
    """A table of the policies, within 80 columns."""
    view = table(
        "policy!",
        "ms/\ntoken#",
        "TTFT\nms#",
        "rounds#",
        "tokens\n/round#",
        "local\npasses#",
        "remote\ndrafts#",
        "engine\nms/tok#",
        "output!",
    )
    for row in rows:
        view.add_row(
            row.policy,
            f"{row.ms_per_token:.1f}",
            f"{row.ttft_ms:.0f}",
            str(row.rounds),
            f"{row.tokens_per_round:.2f}",
            str(row.local_draft_passes),
            f"{row.accepted_remote}/{row.drafted_remote}" if row.drafted_remote else "-",
            f"{row.engine_ms_per_token:.1f}",
            row.output,
        )
    return view


def figures_as_json(row: Figures) -> dict[str, Any]:
    """Return plain values."""
    return asdict(row) | {"tokens_per_round": round(row.tokens_per_round, 3)}


def _engine_ms_per_token(summary: dict[str, Any]) -> float:
    spent = float(summary["target_ms"]) + float(summary["local_draft_ms"])
    return spent / max(1, int(summary["output_tokens"]))


def _output(exactness: Exactness | None) -> str:
    if exactness is None:
        return "reference"
    if exactness.identical:
        return "identical"
    return "near-tie" if exactness.holds else "DIFFERS"


def _relative(ratio: float, below: str, above: str, same: str) -> str:
    if abs(ratio - 1) <= SAME_SPEED:
        return same
    return f"{abs(ratio - 1):.0%} {below if ratio < 1 else above}"

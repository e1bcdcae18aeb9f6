"""``wanspec generate --explain``: an answer's event log, replayed through the controller's own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.text import Text

from wanspec.cli.render import STYLES
from wanspec.cli.tables import table
from wanspec.core.replay import replay
from wanspec.core.rounds import Round
from wanspec.core.tree import Origin
from wanspec.errors import ProtocolError
from wanspec.triton.client import Answer

ACCEPTED, REJECTED = "+", "x"

CAUSES = {
    "wait for drafts": "waited for the worker's drafts",
    "worker behind": "drafted locally: worker behind",
    "no worker": "drafted locally: no worker",
    "overdue": "drafted locally: worker overdue",
    "policy": "drafted locally",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """A replayed answer.

    Attributes:
        prompt: its token ids.
        rounds: one record a verification.
        matches: whether the replay committed the very tokens that were served, of the same origins.
    """

    prompt: tuple[int, ...]
    rounds: tuple[Round, ...]
    matches: bool


def explain(answer: Answer) -> Explained:
    """Replay an answer's event log.

    Raises:
        ProtocolError: the endpoint sent no log, or one that cannot be read.
    """
    if not answer.event_log:
        raise ProtocolError("event_log: the endpoint sent none; it needs return_event_log, which this version sends")
    sequences = list(replay(answer.event_log).values())
    if len(sequences) != 1:
        raise ProtocolError(f"event_log: {len(sequences)} sequences, exactly 1 is expected")
    replayed = sequences[0]
    same = replayed.tokens == answer.tokens and replayed.origins == answer.origins
    return Explained(replayed.prompt, tuple(replayed.rounds), same)


def verdict(explained: Explained) -> str:
    """Say in a sentence whether the replay agrees with what was served."""
    if explained.matches:
        return f"Replayed through the controller's own code: {len(explained.rounds)} rounds, the same tokens as served."
    return "The replay gave other tokens than were served: a defect. Please report it with the output of --json."


def rounds_as_json(explained: Explained) -> list[dict[str, Any]]:
    """Return the rounds as plain values; origins and kinds of steps by name."""
    return [asdict(each) | _named(each) for each in explained.rounds]


def rounds_view(explained: Explained, show: Callable[[int], str]) -> Group:
    """Make a table of the rounds, and the key to it.

    Args:
        explained: the replayed answer.
        show: a token id as text.
    """
    view = table("round#", "ms#", "length#", "drafts", "target", "wait#", "engine#", "why")
    for each in explained.rounds:
        view.add_row(
            str(each.index),
            f"{each.ended_ms:.0f}",
            str(each.length),
            _drafts(each, show),
            "".join(show(token) for token in each.committed[each.accepted :]),
            f"{each.waited_ms:.0f}" if each.waited_ms else "",
            f"{each.engine_ms:.0f}",
            _why(each),
        )
    key = Text("ms: end of the round since the request; length: tokens before it; ", style="dim")
    key.append(f"{ACCEPTED} accepted, {REJECTED} rejected; ")
    key.append("remote draft", STYLES[Origin.REMOTE]).append(", ").append("local draft", STYLES[Origin.LOCAL])
    key.append("; wait: ms for the worker; engine: ms of the target")
    return Group(view, key, Text(verdict(explained)))


def _named(each: Round) -> dict[str, Any]:
    steps = [step._asdict() | {"kind": step.kind.value, "scores": dict(step.scores)} for step in each.steps]
    return {"origins": [origin.label for origin in each.origins], "steps": steps}


def _drafts(each: Round, show: Callable[[int], str]) -> Text:
    text = Text()
    for index, (token, origin) in enumerate(zip(each.drafted, each.origins, strict=True)):
        mark = ACCEPTED if index < each.accepted else REJECTED
        letter = origin.label[0]
        text.append(" " if index else "").append(f"{mark}{letter}:{show(token)}", STYLES[origin])
    return text


def _why(each: Round) -> str:
    if each.index == 0:
        return "prefill"
    return "; ".join(CAUSES.get(cause, cause) for cause in dict.fromkeys(each.causes))

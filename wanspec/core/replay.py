"""Replay of an event log through the controller that wrote it: the same code, the same decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wanspec.core.controller import Controller
from wanspec.core.estimators import Estimators
from wanspec.core.eventlog import read_log
from wanspec.core.events import Emit, Finished, Submitted
from wanspec.core.rounds import Round
from wanspec.core.tree import Origin


@dataclass(slots=True)
class Replayed:
    """One sequence of a replayed log."""

    prompt: tuple[int, ...]
    submitted_ms: float
    rounds: list[Round] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    finished: Finished | None = None


def replay(lines: Iterable[str]) -> dict[int, Replayed]:
    """Run a log through a fresh controller.

    Returns:
        What became of each sequence, by number.

    Raises:
        ProtocolError: the log cannot be read.
    """
    start, _, entries = read_log(lines)
    estimators = Estimators(start.estimators)
    controller = Controller(start.config, control=start.control, instance=start.instance, estimators=estimators)
    controller.restore_links(start.links)
    sequences: dict[int, Replayed] = {}
    for now, event in entries:
        if isinstance(event, Submitted):
            sequences[event.sequence] = Replayed(event.request.prompt, now - event.waited_ms)
        live = dict(controller.sequences)
        for action in controller.handle(event, now):
            if isinstance(action, Emit):
                sequences[action.sequence].tokens += action.tokens
                sequences[action.sequence].origins += action.origins
            elif isinstance(action, Finished):
                sequences[action.sequence].finished = action
                if action.sequence in live:
                    sequences[action.sequence].rounds = live[action.sequence].rounds
    return sequences

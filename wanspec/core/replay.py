"""Replay of an event log through the controller that wrote it: the same code, the same decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from wanspec.core.controller import Controller
from wanspec.core.estimators import Estimators
from wanspec.core.eventlog import read_log
from wanspec.core.events import Action, Emit, Event, Finished, Submitted
from wanspec.core.rounds import Round
from wanspec.core.tree import Origin


@dataclass(slots=True)
class Replayed:
    """One sequence of a replayed log."""

    prompt: tuple[int, ...]
    submitted_ms: float
    policy: str = ""
    rounds: list[Round] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    finished: Finished | None = None


def replay(
    lines: Iterable[str], watch: Callable[[Event, float, Sequence[Action]], None] | None = None
) -> dict[int, Replayed]:
    """Run a log through a fresh controller.

    Args:
        lines: of the log.
        watch: is shown each event, its time in ms, and what the controller did.

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
            policy = event.request.policy or controller.control.policy
            sequences[event.sequence] = Replayed(event.request.prompt, now - event.waited_ms, policy)
        live = dict(controller.sequences)
        actions = controller.handle(event, now)
        if watch is not None:
            watch(event, now, actions)
        for action in actions:
            if isinstance(action, Emit):
                sequences[action.sequence].tokens += action.tokens
                sequences[action.sequence].origins += action.origins
            elif isinstance(action, Finished):
                sequences[action.sequence].finished = action
                if action.sequence in live:
                    sequences[action.sequence].rounds = live[action.sequence].rounds
    return sequences

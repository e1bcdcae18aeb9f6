"""Displays keep ticking, and say once that the servers stop."""

from __future__ import annotations

import io

from rich.console import Console

from wanspec.cli.progress import ModelProgress, StartProgress


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def test_after_a_full_bar_a_stage_of_unknown_length_has_a_running_clock() -> None:
    with ModelProgress(terminal()) as progress:
        progress("downloading", 0.5)
        progress("downloading", 1.0)
        assert progress._bars.tasks[0].finished
        for _ in range(3):
            progress("converting", None)
        (task,) = progress._bars.tasks
        assert task.description == "converting"
        assert not task.finished
        assert task.total is None, "a spinner and a pulse, not a bar"
        started = task.start_time
        progress("converting", None)
        assert progress._bars.tasks[0].start_time == started, "its clock is not set back by each tick"


def test_stopping_is_said_once_and_is_the_last_word() -> None:
    console = Console(file=io.StringIO(), width=80)
    with StartProgress(console) as progress:
        progress("worker", "loading", 1.0, ("wanspec_worker",))
        progress("worker", "stopping", 0.0, ())
        progress("controller", "stopping", 0.0, ())
        progress("controller", "loading", 1.0, ("target",))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["worker: loading wanspec_worker", "stopping both regions"]

"""What is shown while models are fetched and servers start: bars on a terminal, else a line for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from wanspec.cli.render import make_console
from wanspec.triton.deployment import Deployment


class Display:
    """A transient display on standard error: standard output stays clean for programs. Use with ``with``."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or make_console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, str] = {}

    def __enter__(self: Shown) -> Shown:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, task: str, text: str, fraction: float | None = None) -> None:
        """Show ``text`` as the state of ``task``. ``fraction``: the share that is done, None where it is not known."""
        if not self._console.is_terminal:
            if self._told.get(task) != text:
                self._told[task] = text
                self._console.print(text, soft_wrap=True)
            return
        if fraction is None and task in self._tasks and self._bars.tasks[self._row(task)].total is not None:
            # A bar cannot go back to "share unknown", and one that was full has stopped its clock.
            self._bars.remove_task(self._tasks.pop(task))
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(text, total=None)
        total = None if fraction is None else 1.0
        self._bars.update(self._tasks[task], description=text, total=total, completed=fraction or 0.0)

    def _row(self, task: str) -> int:
        return self._bars.task_ids.index(self._tasks[task])


Shown = TypeVar("Shown", bound=Display)


class ModelProgress(Display):
    """Progress of fetching and converting models, as ``wanspec.models.resolve`` reports it."""

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Take note."""
        self.show("model", stage, fraction)


class StartProgress(Display):
    """Progress of the servers, as ``Deployment.start`` reports it.

    Attributes:
        stopping: whether the user was told that the servers are stopped.
    """

    stopping = False

    def __call__(self, server: str, state: str, seconds: float, models: tuple[str, ...]) -> None:
        """Take note; from any thread."""
        if state == "stopping":
            self.stop()
        if self.stopping:
            return
        what = f" {', '.join(models)}" if state == "loading" and models else ""
        self.show(server, f"{server}: {state}{what}", 1.0 if state == "ready" else None)

    def stop(self) -> None:
        """Say, once, that the servers are stopped: that may take seconds after a Ctrl-C."""
        if not self.stopping:
            self.stopping = True
            self._console.print("stopping both regions", style="dim")


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show that something is waited for, where standard error is a terminal; yields what changes the words."""
    console = make_console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda _: None
        return
    with console.status(Text(text, "dim")) as status:
        yield lambda words: status.update(Text(words, "dim"))


@contextmanager
def running(deployment: Deployment) -> Iterator[None]:
    """Start both regions with progress; stop them at the end, and say so."""
    progress = StartProgress()
    try:
        with progress:
            deployment.start(progress)
        yield
    finally:
        progress.stop()
        deployment.stop()

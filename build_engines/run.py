"""Does the steps of a plan that are not done yet."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from build_engines import machine, pair
from build_engines.manifest import Manifest, Versions, key_of, step_inputs
from build_engines.plan import Plan, Step
from wanspec.errors import ConfigError, ModelError
from wanspec.models import subprocesses
from wanspec.models.locate import fetch
from wanspec.models.progress import ProgressCallback
from wanspec.triton.engine_pair import EnginePair


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step. ``seconds``: that it took; 0 where it was done already."""

    step: Step
    skipped: bool
    seconds: float
    log: Path | None


class Builder:
    """Does a plan's steps, one after the other."""

    def __init__(
        self,
        plan: Plan,
        versions: Versions,
        *,
        on_progress: ProgressCallback,
        step_deadline_s: float,
        again: bool = False,
    ) -> None:
        """Describe the work.

        Args:
            plan: what to do.
            versions: of what is installed, as :func:`machine.check` found them.
            on_progress: told of each step.
            step_deadline_s: longest that a step may take.
            again: do steps anew that are done.
        """
        self.notes: tuple[str, ...] = ()
        self._plan = plan
        self._versions = versions
        self._progress = on_progress
        self._deadline_s = step_deadline_s
        self._again = again
        self._manifest = Manifest(plan.layout.output)
        self._logs = plan.layout.output / "logs"

    def run(self, replan: Callable[[pair.CheckedPair], Plan]) -> Iterator[Outcome]:
        """Fetch, check the pair, and do what is left; yield each step's outcome.

        A step that fails leaves its log and no entry in the manifest: the next run begins there.

        Args:
            replan: makes the plan of what the models' own files say.

        Raises:
            ConfigError: another build uses the folder, the disk is too small, or the pair is not what the recipe says.
            ModelError: a model cannot be fetched or a step failed; names the log.
        """
        output = self._plan.layout.output
        self._logs.mkdir(exist_ok=True)
        with _locked(output):
            fetches = [step for step in self._plan.steps if not step.argv]
            machine.check_room(output, sum(step.size for step in self._plan.steps if not step.result.exists()))
            for number, step in enumerate(fetches, 1):
                yield self._do(step, number)
            checked = self._check_pair()
            self.notes = checked.notes
            self._plan = replan(checked)
            commands = [step for step in self._plan.steps if step.argv]
            for number, step in enumerate(commands, len(fetches) + 1):
                yield self._do(step, number)
            self._describe().write(output)

    def _check_pair(self) -> pair.CheckedPair:
        recipe, layout = self._plan.recipe, self._plan.layout
        self._progress("checking the pair", None)
        target, draft = layout.model("target", recipe.target), layout.model("draft", recipe.draft)
        if "target" not in self._plan.roles and not (target / "config.json").is_file():
            return pair.check_draft(recipe, draft)
        return pair.check(recipe, target, draft)

    def _do(self, step: Step, number: int) -> Outcome:
        inputs = step_inputs(step, self._versions)
        key = key_of(inputs)
        if not self._again and self._manifest.is_done(step, key):
            return Outcome(step, skipped=True, seconds=0.0, log=None)
        title = f"[{number}/{len(self._plan.steps)}] {step.name.partition('.')[0]}: {step.title}"
        self._progress(title, None)
        self._manifest.begin(step)
        began = time.monotonic()
        log = None
        if step.argv:
            log = self._command(step, title)
        else:
            fetch(str(step.source), step.result, self._progress)
        seconds = time.monotonic() - began
        self._manifest.finish(step, key, seconds, inputs)
        return Outcome(step, skipped=False, seconds=seconds, log=log)

    def _command(self, step: Step, title: str) -> Path:
        if step.result.exists():  # half made, or of other inputs
            shutil.rmtree(step.result)
        step.result.parent.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{step.name}.log"
        subprocesses.run(
            step.argv,
            purpose=title,
            log=log,
            deadline_s=self._deadline_s,
            cure=f"The whole output is in {log}; the same command goes on from this step.",
            on_tick=lambda: self._progress(title, None),
        )
        if not step.result.is_dir() or not any(step.result.iterdir()):
            raise ModelError(f"{title} ended well, but made nothing in {step.result}. Its output is in {log}.")
        return log

    def _describe(self) -> EnginePair:
        return self._plan.engines.model_copy(update={"tensorrt_llm": self._versions.tensorrt_llm})


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "output", f"another build is at work in {folder}; wait for it, or choose another"
            ) from None
        yield

"""``wanspec demo``: two regions, two prompts, four policies, and what the split saved."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from wanspec.bench.session import TARGET_ONLY, Session
from wanspec.cli.answers import stream
from wanspec.cli.command import JSON_OPTION
from wanspec.cli.comparison import (
    Figures,
    Run,
    exactness_sentence,
    figures,
    figures_as_json,
    figures_table,
    verdict,
)
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.machine import describe_machine
from wanspec.cli.progress import Display, running, waiting
from wanspec.cli.regions import Pace, PaceType, choose_models, engines
from wanspec.cli.render import find_tokenizer, legend_for, make_console, painter_for
from wanspec.cli.report import check_parent, write_answers
from wanspec.exactness import Exactness
from wanspec.models import PAIRS, cache_dir
from wanspec.network.shape import LinkShape
from wanspec.prompts import DEMO
from wanspec.triton.client import Answer, Pending
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import RegionSettings, with_stored_costs

SPLIT, LOCAL = "adaptive", "local"
POLICIES = (SPLIT, "wanspec", LOCAL, TARGET_ONLY)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    pair: str
    rtt_ms: float
    max_tokens: int
    pace: Pace
    report: Path


@click.command(
    cls=ConfiguredCommand,
    done="measured, and every policy's output is the target's own",
    failed="an output differs, or it failed; the message says what to do",
)
@config_option
@click.option("--pair", type=click.Choice(list(PAIRS)), default="smollm2", show_default=True, help="Target and draft.")
@click.option("--rtt-ms", type=click.FloatRange(0, 10_000), default=30.0, show_default=True, help="Round trip.")
@click.option("--max-tokens", type=click.IntRange(2), default=64, show_default=True, help="Longest answer.")
@click.option(
    "--pace-ms",
    type=PaceType(),
    default="100,30,30",
    show_default=True,
    help="Least duration of a step: target,draft,worker. 0,0,0: as fast as this machine can.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the HTML report of all answers.  [default: in the cache of WANSpec]",
)
@click.option("--keep-logs", is_flag=True, help="Keep the servers' logs; failures keep them anyway.")
@click.option("--no-color", is_flag=True, help="No colours (NO_COLOR does the same).")
@JSON_OPTION
def demo(
    pair: str,
    rtt_ms: float,
    max_tokens: int,
    pace_ms: Pace,
    report: Path | None,
    keep_logs: bool,
    no_color: bool,
    as_json: bool,
) -> None:
    """See a language model's answer come from two regions, and what that saved.

    Two Triton servers start on this machine, with an emulated WAN between them: the target and a small draft model in
    one, the same draft model in the other. Two prompts are answered by each of four policies: `adaptive` (drafts cross
    the WAN), `wanspec` (they do by the paper's rule), `local` (speculative decoding in one region) and `target_only`
    (the reference for the output). It ends by writing an HTML report of where the time of each answer went.

    The regions share this machine, so by default each step is paced to a duration of large models' steps; otherwise the
    two would take the processor from each other.

    \b
    Examples:
      wanspec demo
      wanspec demo --rtt-ms 100
      wanspec demo --pace-ms 0,0,0          unpaced
      wanspec demo --pair small --json      no download, for programs
    """
    check_parent("report", report)
    options = Options(pair, rtt_ms, max_tokens, pace_ms, report or cache_dir() / "reports" / "demo.html")
    # With --json, everything for people goes to standard error.
    console = make_console(color=not no_color, stderr=as_json)
    target, draft = choose_models(pair)
    regions, _ = with_stored_costs(RegionSettings(target, draft, *engines(pace_ms)))
    deployment = Deployment(DeploymentSettings(regions, LinkShape(delay_ms=rtt_ms / 2)))
    with running(deployment):
        result = _Demo(deployment, options, console).run()
    for server in () if keep_logs or not result.exactness.holds else (deployment.controller, deployment.worker):
        server.log.unlink(missing_ok=True)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        result.show(console)
    if not result.exactness.holds:
        sys.exit(ExitCode.FAILED)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    options: Options
    runs: tuple[Run, ...]
    rows: tuple[Figures, ...]
    exactness: Exactness
    report: str

    @property
    def verdict(self) -> str:
        """In a sentence."""
        by_name = {row.policy: row for row in self.rows}
        return verdict(by_name[SPLIT], by_name[LOCAL], by_name[TARGET_ONLY])

    @property
    def conditions(self) -> str:
        """How it was measured."""
        pace = self.options.pace
        paced = (
            f"steps paced to at least {pace} ms, as of larger models"
            if pace
            else "unpaced, so that both regions compete for this machine's processor"
        )
        return (
            f"Measured: {describe_machine()}; real engines on the CPU, {paced}; "
            f"RTT {self.options.rtt_ms:g} ms emulated; "
            f"medians of {len(self.runs) // len(POLICIES)} answers of up to {self.options.max_tokens} tokens, "
            "their prompts in the KV cache already."
        )

    def show(self, console: Console) -> None:
        """Print table and conclusions."""
        console.print(figures_table(self.rows))
        console.print(self.verdict)
        console.print(exactness_sentence(self.exactness), style="bold" if self.exactness.holds else "bold red")
        console.print(self.conditions, style="dim")
        console.print(self.report, style="bold", markup=False, soft_wrap=True)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "date": time.strftime("%Y-%m-%d"),
            "machine": describe_machine(),
            "options": asdict(self.options) | {"report": str(self.options.report)},
            "policies": {row.policy: figures_as_json(row) for row in self.rows},
            "exactness": asdict(self.exactness)
            | {"identical": self.exactness.identical, "holds": self.exactness.holds},
            "verdict": self.verdict,
            "conditions": self.conditions,
            "runs": [asdict(run) for run in self.runs],
        }


class _Demo:
    """The requests of one demo."""

    def __init__(self, deployment: Deployment, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._session = Session(deployment.controller.grpc_endpoint)
        self._prompts = DEMO[options.pair]

    def run(self) -> Result:
        """Ask, compare."""
        with waiting("waiting for the worker"):
            self._session.await_worker(self._prompts[0], SPLIT, "see its log (--keep-logs)")
        by_token = find_tokenizer(self._session.parameters) is not None
        if self._console.is_terminal:
            self._console.print(legend_for(self._console, by_token=by_token))
        with waiting("prefilling the prompts"):
            for prompt in self._prompts:  # once each, lest the first policy alone pay for the target's prefill
                self._session.ask(prompt, TARGET_ONLY, max_tokens=1).result()
        # Interleaved: what else the machine does meanwhile falls on all policies alike.
        answers: dict[tuple[str, int], Answer] = {}
        for number, prompt in enumerate(self._prompts):
            self._console.print(f"\n> {prompt}", style="bold")
            painter = painter_for(self._console, self._session.parameters)
            answers[SPLIT, number] = stream(self._ask(prompt, SPLIT), painter, self._console)
            self._console.print(legend_for(self._console, answers[SPLIT, number].origins))
            with Display() as display:
                for policy in POLICIES[1:] if number % 2 == 0 else POLICIES[:0:-1]:
                    display.show("policy", f"the same prompt with policy {policy}")
                    answers[policy, number] = self._ask(prompt, policy).result()
        runs = [Run(policy, number, answer.summary) for (policy, number), answer in answers.items()]
        exact = {policy: self._check(policy, answers) for policy in POLICIES if policy != TARGET_ONLY}
        rows = [figures(policy, runs, exact.get(policy)) for policy in POLICIES]
        told = self._report(answers)
        return Result(self._options, tuple(runs), tuple(rows), reduce(add, exact.values()), told)

    def _report(self, answers: dict[tuple[str, int], Answer]) -> str:
        """Write the report; say where it is, or why there is none: the demo has done its work either way."""
        path = self._options.report
        logs = [(f"{policy}, prompt {number + 1}", answer.event_log) for (policy, number), answer in answers.items()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_answers(path, logs, find_tokenizer(self._session.parameters), title="WANSpec demo")
        except OSError as error:
            return f"No report: {error}"
        return f"Where the time of every answer went: {path.absolute()} (open it in a browser)"

    def _ask(self, prompt: str, policy: str) -> Pending:
        return self._session.ask(prompt, policy, max_tokens=self._options.max_tokens, event_log=True)

    def _check(self, policy: str, answers: dict[tuple[str, int], Answer]) -> Exactness:
        return reduce(
            add,
            (
                self._session.check(prompt, answers[TARGET_ONLY, number].tokens, answers[policy, number].tokens, policy)
                for number, prompt in enumerate(self._prompts)
            ),
        )

"""``wanspec bench``: policies side by side on real servers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from wanspec.bench.results import Results, load
from wanspec.bench.rows import make_rows
from wanspec.bench.warnings import find_warnings
from wanspec.cli.bench_report import json_lines, show, write_html
from wanspec.cli.bench_run import bench_own, bench_running
from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.endpoint import endpoint_options
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.regions import (
    DTYPES,
    link_options,
    machine_options,
)
from wanspec.cli.render import make_console
from wanspec.cli.report import check_parent
from wanspec.cli.simulation_options import numbers
from wanspec.models import PAIRS
from wanspec.simulation.plots import require_matplotlib
from wanspec.simulation.timings import TIMINGS
from wanspec.triton.regions import DEFAULT_LEAVES

POLICIES = "target_only,local_adaptive,wanspec:branching=1,adaptive"
CAPACITY_POLICIES = "local_adaptive,wanspec:branching=1,adaptive"
CAPACITY_PROFILE = "paper-cloud"
MOST_AT_ONCE = 64
OF_A_DEPLOYMENT = (
    "pair", "target", "draft", "rtts", "jitter_ms", "rate_mbps", "loss", "streams", "profile", "time_scale", "dtype",
    "weights", "device", "leaves", "worker_device", "threads", "keep_logs", "capacity",
    "max_batch_size",
)  # fmt: skip
"""Options that say what to start, which has no place beside ``--url``."""


def whole_numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read whole numbers from 1 on, separated by commas."""
    found = numbers(context, option, value)
    if not all(number == int(number) and 1 <= number <= MOST_AT_ONCE for number in found):
        raise click.BadParameter(f"{value!r} is not whole numbers from 1 to {MOST_AT_ONCE}, separated by commas")
    return tuple(int(number) for number in found)


@click.command(
    cls=JsonErrors,
    done="measured, and every output is the target's own",
    failed="an output differs, or the measurement failed; the message says what to do",
)
@endpoint_options(None, "gRPC of a running endpoint; default: start both regions here.")
@click.option("--policy", default=POLICIES, show_default=True, help="By commas; with parameters: wanspec:phi=0.2:k=3.")
@click.option("--k", type=click.IntRange(1, 32), default=2, show_default=True, help="Drafts of the baseline, `local`.")
@click.option("--rtt", "rtts", default="30", show_default=True, callback=numbers, help="Round trips in ms, by commas.")
@click.option(
    "--concurrency", default="1", show_default=True, callback=whole_numbers, help="Requests at once, by commas."
)
@click.option(
    "--capacity",
    default="",
    callback=lambda context, option, value: whole_numbers(context, option, value) if value else (),
    metavar="N,N,..",
    help="Sequences at once, target and local draft on one GPU: what it serves.",
)
@click.option(
    "--max-batch-size",
    type=click.IntRange(0, MOST_AT_ONCE),
    default=8,
    show_default=True,
    help="Most requests in one pass of that GPU, with --capacity; 0: no limit.",
)
@click.option("--prompts", type=click.IntRange(1, 80), default=16, show_default=True, help="Of the 80, all categories.")
@click.option("--tokens", type=click.IntRange(2, 100_000), default=64, show_default=True, help="Longest answer.")
@click.option("--ignore-end", is_flag=True, help="Go on to --tokens where the model would end.")
@click.option("--warm-up", type=click.IntRange(1, 100), default=1, show_default=True, help="Requests not counted.")
@click.option("--pair", type=click.Choice(list(PAIRS)), help="Target and draft that fit; default: small.")
@click.option("--target", metavar="MODEL", help="Name (`wanspec models list`), folder or hub id; with --draft.")
@click.option("--draft", metavar="MODEL", help="Of the target's own tokenizer.")
@click.option(
    "--profile", help=f"Pace of the engines: {', '.join(TIMINGS)}, or target/draft[/worker] in ms; default: none."
)
@click.option(
    "--leaves",
    type=click.IntRange(1, 4096),
    default=DEFAULT_LEAVES,
    show_default=True,
    help="Most leaves in a pass of the worker.",
)
@link_options
@click.option("--dtype", type=click.Choice(DTYPES), help="Of all models; default: float64 for small, else float32.")
@machine_options
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with tables and figures.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page of where the time of some answers went; they are asked again for it.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write what was measured, as JSON lines.")
@click.option(
    "--load", "loaded", multiple=True, type=click.Path(path_type=Path), help="Report on saved files; repeatable."
)
@click.option("--keep-logs", is_flag=True, help="Keep the servers' logs; failures keep them anyway.")
@JSON_OPTION
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> None:
    """Measure policies side by side on real servers, against speculative decoding in one region.

    Every policy answers the same prompts, in turn, at each round trip and each number of requests at once. Ratios are
    of paired answers, against `local`. `target_native` is one request to the target's engine for the whole answer.
    Each output is compared with the target's own; one that differs makes the exit code 1.

    With --profile, engine steps last at least as long as those of a large deployment; where this machine is too slow
    for that, --time-scale stretches paces and delays alike, and the report takes it out again.

    \b
    Examples:
      wanspec bench --profile paper-cloud --time-scale 2 --rtt 10,30,70
      wanspec bench --profile 70b-8gpu --time-scale 5 --policy adaptive,adaptive:price=0.1 --html report.html
      wanspec bench --pair smollm2 --prompts 8 --json
      wanspec bench --url 127.0.0.1:8001 --concurrency 1,4
      wanspec bench --capacity 1,4,16 --time-scale 8 --ignore-end
      wanspec bench --rtt 10 --save 10.jsonl; wanspec bench --rtt 70 --save 70.jsonl
      wanspec bench --load 10.jsonl --load 70.jsonl --html both.html
    """
    if options["html"] is not None:
        require_matplotlib()
    for name in ("html", "save", "report"):
        check_parent(name, options[name])
    if options["capacity"]:
        _choose_for_capacity(context, options)
    elif context.get_parameter_source("max_batch_size") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--max-batch-size is of the GPU that --capacity measures: give that as well")
    if options["loaded"]:
        if options["report"] is not None:
            raise click.UsageError("--report is of answers that are asked now; --load asks nothing")
        results = load(options["loaded"])
    elif options["url"] is not None:
        _refuse_beside_url(context)
        results = bench_running(options)
    else:
        results = bench_own(options)
    if options["save"] is not None:
        results.save(options["save"])
    _report(results, options)
    if not results.exact:
        sys.exit(ExitCode.FAILED)


def _choose_for_capacity(context: click.Context, options: dict[str, Any]) -> None:
    """What is usual for capacity, where nothing else was asked for.

    Raises:
        click.UsageError: ``--concurrency`` as well.
    """
    given = click.core.ParameterSource.COMMANDLINE
    if context.get_parameter_source("concurrency") is given:
        raise click.UsageError("--capacity says how many run at once, and --concurrency too: give one")
    options["concurrency"] = options["capacity"]
    options["profile"] = options["profile"] or CAPACITY_PROFILE
    usual = {"policy": CAPACITY_POLICIES, "prompts": max(options["prompts"], *options["capacity"])}
    options |= {name: value for name, value in usual.items() if context.get_parameter_source(name) is not given}


def _report(results: Results, options: dict[str, Any]) -> None:
    rows, warnings = make_rows(results), find_warnings(results)
    if options["html"] is not None:
        write_html(results, rows, warnings, options["html"])
    if options["as_json"]:
        for line in json_lines(results, rows, warnings):
            click.echo(line)
    else:
        show(results, rows, warnings, make_console())


def _refuse_beside_url(context: click.Context) -> None:
    for name in OF_A_DEPLOYMENT:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(each.opts[0] for each in context.command.params if each.name == name)
            raise click.UsageError(f"{option} describes a deployment to start; with --url one is running already")

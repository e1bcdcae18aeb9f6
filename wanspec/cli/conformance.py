"""``wanspec conformance``: does a server keep the contract of TensorRT-LLM's model? A report that can be sent."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.text import Text

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.endpoint import endpoint_options
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.progress import Display
from wanspec.cli.render import make_console
from wanspec.cli.tables import table
from wanspec.conformance import Options, Report, Subject, connect, run, select
from wanspec.conformance.run import FAIL, PASS, SKIP, Outcome, describe
from wanspec.errors import ConfigError, ServerError
from wanspec.network.tls import Tls

CURES = {
    "grpc": "Does a Triton listen there? --url wants its gRPC, port 8001 by default; --model names the model to check.",
    "http": "Does a Triton listen there? --http-url wants its HTTP, port 8000 by default; --model names the model.",
}
STYLES = {PASS: "green", SKIP: "dim", FAIL: "bold red"}


@click.command(
    cls=JsonErrors,
    done="every rule that applies is kept",
    failed="a rule failed, or the server could not be asked; the report or the message says why",
)
@endpoint_options(meaning="gRPC of the server.")
@click.option("--http-url", metavar="HOST:PORT", help="HTTP of the server.  [default: the host of --url, port 8000]")
@click.option("--model", default="tensorrt_llm", show_default=True, help="Name of the model at the server.")
@click.option("--protocol", type=click.Choice(["grpc", "http", "both"]), default="grpc", show_default=True)
@click.option(
    "--role",
    type=click.Choice(["target", "draft"]),
    help="target: drafts must be served. draft: they must be refused.  [default: either]",
)
@click.option("--rules", "pattern", default="*", show_default=True, metavar="GLOB", help="Such as 'drafts.*,law.*'.")
@click.option("--vocab-size", type=click.IntRange(2), help="If the server returns no generation_logits.")
@click.option("--prompt-ids", multiple=True, metavar="IDS", help="A prompt, as 5,6,7; may be repeated.")
@click.option("--max-draft-len", type=click.IntRange(0), help="Most drafts of a request.  [default: found out]")
@click.option("--samples", type=click.IntRange(100), default=2000, show_default=True, help="Draws of a law.* rule.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=60.0, show_default=True, help="s, a request.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of prompts and of the seeds that are sent.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the report as JSON.")
@JSON_OPTION
def conformance(
    url: str,
    tls: Tls | None,
    http_url: str | None,
    model: str,
    protocol: str,
    role: str | None,
    pattern: str,
    vocab_size: int | None,
    prompt_ids: tuple[str, ...],
    max_draft_len: int | None,
    samples: int,
    timeout_s: float,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Check a server against the contract of TensorRT-LLM's inflight_batcher_llm model.

    Works with any model on any engine. The rules: docs/conformance.md.

    \b
    Examples:
      wanspec conformance --url gpu-host:8001 --role target --output report.json
      wanspec conformance --model draft --role draft --protocol both
      wanspec conformance --rules 'drafts.*'
    """
    # What a rule finds is in the report; nothing belongs on the screen twice.
    logging.getLogger("wanspec.conformance").propagate = False
    options = Options(
        role=role or "",
        vocab_size=vocab_size,
        prompt_ids=[_ids(text) for text in prompt_ids],
        max_draft_len=max_draft_len,
        samples=samples,
        seed=seed,
        timeout_s=timeout_s,
    )
    select(pattern)
    urls = {"grpc": url, "http": http_url or f"{url.rpartition(':')[0]}:8000"}
    chosen = ["grpc", "http"] if protocol == "both" else [protocol]
    reports = [_check(each, urls[each], model, options, pattern, tls) for each in chosen]
    found = {"passed": all(report.passed for report in reports), "reports": [report.as_dict() for report in reports]}
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        output.with_suffix(".txt").write_text("\n".join(report.as_text() for report in reports), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for report in reports:
            _show(report)
        if output is not None:
            click.echo(f"report: {output} and {output.with_suffix('.txt')}")
    if not found["passed"]:
        sys.exit(ExitCode.FAILED)


def _check(protocol: str, url: str, model: str, options: Options, pattern: str, tls: Tls | None) -> Report:
    started, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
    try:
        server = connect(protocol, url, model, tls=tls)
    except ServerError as error:
        raise ServerError(f"{error}. {CURES[protocol]}") from error
    subject, rules = Subject(server, options), select(pattern)
    done = 0
    with Display() as display:

        def progress(name: str, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            display.show(protocol, f"{protocol}: {name} {outcome.state}", done / len(rules))

        try:
            outcomes = run(subject, rules, progress)
        finally:
            server.close()
    return Report(protocol, server.info, options, outcomes, describe(subject), started, time.monotonic() - clock)


def _show(report: Report) -> None:
    view = table("", "rule!", "s#", "what")
    for outcome in report.outcomes:
        detail = Text(outcome.detail)
        if outcome.state == FAIL:
            detail.append(f"\nexpected {outcome.expected}\ngot {outcome.got}", style=STYLES[FAIL])
        view.add_row(Text(outcome.state, STYLES[outcome.state]), outcome.rule, f"{outcome.seconds:.2f}", detail)
    console = make_console()
    console.print(view)
    console.print(report.summary, style="bold", soft_wrap=True)


def _ids(text: str) -> list[int]:
    """Token ids of ``5,6,7``."""
    try:
        ids = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError("prompt-ids", f"{text!r} is not a list of token ids such as 5,6,7") from None
    if len(ids) < 2 or min(ids) < 0:
        raise ConfigError("prompt-ids", f"{text!r}: give at least two token ids, none negative")
    return ids

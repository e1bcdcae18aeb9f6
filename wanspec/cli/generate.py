"""``wanspec generate``: one prompt against a running endpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wanspec.cli.answers import answer_as_json, stream, whole
from wanspec.cli.command import JSON_OPTION
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.endpoint import endpoint_parameters
from wanspec.cli.explain import explain, rounds_as_json, rounds_view
from wanspec.cli.render import find_tokenizer, legend_for, make_console, painter_for, summary_line
from wanspec.cli.report import check_parent, write_answers
from wanspec.cli.request_options import inputs_of, request_options
from wanspec.network.tls import Tls
from wanspec.telemetry.context import TraceContext
from wanspec.triton.client import Answer, WanspecClient


class TraceparentType(click.ParamType[TraceContext]):
    """A ``traceparent`` of W3C Trace Context."""

    name = "TRACEPARENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TraceContext:
        """Read it."""
        found = value if isinstance(value, TraceContext) else TraceContext.parse(str(value))
        if found is None:
            self.fail(f"{value!r} is not 00-<32 hexadecimal digits>-<16>-<2>, in lower case and not all zeros")
        return found


@click.command(cls=ConfiguredCommand)
@click.argument("prompt", required=False)
@config_option
@request_options
@click.option("--chat/--no-chat", default=None, help="Wrap the prompt in the model's chat template; default: if any.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the prompt from standard input; PROMPT - does too.")
@click.option("--explain", "explained", is_flag=True, help="Replay the answer's event log and show every round.")
@click.option("--trace", "traced", is_flag=True, help="Have it traced, and show the trace's id.")
@click.option("--traceparent", type=TraceparentType(), help="The same, as part of this span (W3C Trace Context).")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write where the time went, as an HTML file."
)
@JSON_OPTION
def generate(
    prompt: str | None,
    url: str,
    tls: Tls | None,
    chat: bool | None,
    from_stdin: bool,
    explained: bool,
    traced: bool,
    traceparent: TraceContext | None,
    report: Path | None,
    no_color: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Stream the answer to PROMPT from a running endpoint (`wanspec up` starts one).

    Tokens are coloured by who proposed them (without colours: bold and underlined). The last lines say how many came
    from where and what the answer cost. Ctrl-C ends the request in both regions.

    \b
    Examples:
      wanspec generate "Why is the sky blue?"
      wanspec generate "Why is the sky blue?" --policy local --set k=3
      wanspec generate "Name three rivers." --explain
      wanspec generate "Name three rivers." --report rivers.html
      wanspec generate "Tell me a story." --temperature 0.8 --top-p 0.95 --seed 7
      wanspec generate "Hello" --trace                      where every millisecond went: docs/traces.md
      cat question.txt | wanspec generate - --json
    """
    check_parent("report", report)
    text = _prompt(prompt, from_stdin)
    inputs = inputs_of(options)
    client = WanspecClient(url, tls=tls)
    parameters = endpoint_parameters(client, url)
    templated = parameters.get("chat_template") == "yes" if chat is None else chat
    context = traceparent or (TraceContext.new() if traced else None)
    part_of = str(context) if context else ""
    logged = explained or report is not None
    pending = client.ask(text, chat=templated, event_log=logged, traceparent=part_of, **inputs)
    if as_json:
        answer = whole(pending)
        _report(report, answer, parameters)
        values = _as_json(answer, explained) | ({"traceparent": part_of} if part_of else {})
        click.echo(json.dumps(values, ensure_ascii=False, indent=2))
        return
    console = make_console(color=not no_color)
    painter = painter_for(console, parameters)
    answer = stream(pending, painter, console)
    # For a pipe, standard output is the answer alone.
    notes = console if console.is_terminal else make_console(color=not no_color, stderr=True)
    notes.print(legend_for(notes, answer.origins, by_token=painter.by_token or not console.is_terminal))
    notes.print(summary_line(answer.summary), style="dim")
    if context:
        notes.print(f"trace {context.trace}", style="dim")
    if explained:
        console.print(rounds_view(explain(answer), painter.token))
    if report is not None:
        _report(report, answer, parameters)
        notes.print(f"report: {report.absolute()}", style="dim", markup=False, soft_wrap=True)


def _report(path: Path | None, answer: Answer, parameters: Mapping[str, str]) -> None:
    if path is not None:
        write_answers(path, [("generate", answer.event_log)], find_tokenizer(parameters), title="One answer")


def _prompt(prompt: str | None, from_stdin: bool) -> str:
    if from_stdin and prompt not in (None, "-"):
        raise click.UsageError("give a PROMPT or --stdin, not both")
    if from_stdin or prompt == "-":
        try:
            return sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise click.UsageError(f"standard input is not UTF-8: byte {error.start}") from error
    if prompt is None:
        raise click.UsageError('give a PROMPT in quotes, or - to read standard input: wanspec generate "Hello"')
    return prompt


def _as_json(answer: Answer, explained: bool) -> dict[str, Any]:
    values = answer_as_json(answer)
    if explained:
        replayed = explain(answer)
        values |= {"rounds": rounds_as_json(replayed), "replay_matches": replayed.matches}
        values["event_log"] = answer.event_log
    return values

"""``wanspec generate``: one prompt against a running endpoint."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from wanspec.cli.command import JSON_OPTION, parse_settings
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.endpoint import EndpointType, endpoint_parameters
from wanspec.cli.explain import explain, rounds_as_json, rounds_view
from wanspec.cli.render import Flow, Painter, find_tokenizer, legend, make_console, styles_of, summary_line
from wanspec.core.policies import POLICIES
from wanspec.triton.client import DEFAULT_URL, Answer, Pending, WanspecClient


@click.command(cls=ConfiguredCommand)
@click.argument("prompt", required=False)
@config_option
@click.option("--url", type=EndpointType(), default=DEFAULT_URL, show_default=True, help="gRPC of the endpoint.")
@click.option("--policy", type=click.Choice(list(POLICIES)), help="Default: the endpoint's.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the policy; repeatable.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer; default: the endpoint's.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Above 0 the answer is drawn; default: 0, greedy.")
@click.option("--top-k", type=click.IntRange(min=0), help="Draw from so many tokens only; default: 0, all.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from so much probability; default 1.")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Repeats an answer; default: another each time.")
@click.option("--chat/--no-chat", default=None, help="Wrap the prompt in the model's chat template; default: if any.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the prompt from standard input; PROMPT - does too.")
@click.option("--explain", "explained", is_flag=True, help="Replay the answer's event log and show every round.")
@click.option("--no-color", is_flag=True, help="No colours (NO_COLOR does the same).")
@JSON_OPTION
def generate(
    prompt: str | None,
    url: str,
    policy: str | None,
    settings: tuple[str, ...],
    max_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    chat: bool | None,
    from_stdin: bool,
    explained: bool,
    no_color: bool,
    as_json: bool,
) -> None:
    """Stream the answer to PROMPT from a running endpoint (`wanspec up` starts one).

    Tokens are coloured by who proposed them (without colours: bold and underlined). The last lines say how many came
    from where and what the answer cost. Ctrl-C ends the request in both regions.

    \b
    Examples:
      wanspec generate "Why is the sky blue?"
      wanspec generate "Why is the sky blue?" --policy local --set k=3
      wanspec generate "Name three rivers." --explain
      wanspec generate "Tell me a story." --temperature 0.8 --top-p 0.95 --seed 7
      cat question.txt | wanspec generate - --json
    """
    text = _prompt(prompt, from_stdin)
    policy_parameters = parse_settings(settings)
    client = WanspecClient(url)
    parameters = endpoint_parameters(client, url)
    pending = client.ask(
        text,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        chat=parameters.get("chat_template") == "yes" if chat is None else chat,
        policy=policy,
        policy_parameters=policy_parameters,
        event_log=explained,
    )
    if as_json:
        click.echo(json.dumps(_as_json(pending.result(), explained), ensure_ascii=False, indent=2))
        return
    console = make_console(color=not no_color)
    painter = Painter(find_tokenizer(parameters), styles_of(console))
    answer = stream(pending, painter, console)
    # For a pipe, standard output is the answer alone.
    notes = console if console.is_terminal else make_console(color=not no_color, stderr=True)
    notes.print(legend(painter.by_token or not console.is_terminal, answer.origins, styles_of(notes)))
    notes.print(summary_line(answer.summary), style="dim")
    if explained:
        console.print(rounds_view(explain(answer), painter.token))


def stream(pending: Pending, painter: Painter, console: Console) -> Answer:
    """Print an answer as it comes, coloured; return it whole."""
    flow = Flow(console.width) if console.is_terminal else None
    began = False
    try:
        for piece in pending:
            began = True
            for text, style in painter.paint(piece):
                console.print(Text(flow.fit(text) if flow else text, style), end="", soft_wrap=True)
            console.file.flush()
    finally:
        if began:
            console.print()
    return pending.answer


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
    values: dict[str, Any] = {
        "text": answer.text,
        "tokens": answer.tokens,
        "origins": [origin.label for origin in answer.origins],
        "finish_reason": answer.finish_reason,
        "summary": answer.summary,
    }
    if explained:
        replayed = explain(answer)
        values |= {"rounds": rounds_as_json(replayed), "replay_matches": replayed.matches}
        values["event_log"] = answer.event_log
    return values

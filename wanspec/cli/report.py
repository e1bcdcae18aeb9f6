"""``wanspec report``: where the time of requests went, as one HTML file; and what other commands write of the kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from threadpoolctl import threadpool_limits

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.progress import waiting
from wanspec.errors import ConfigError, ProtocolError
from wanspec.models import CATALOG, cached_folder, fingerprint, is_ready
from wanspec.report.inputs import KINDS, Found, read_inputs
from wanspec.report.page import write_report
from wanspec.report.timeline import PARTS, Timeline, without_text
from wanspec.report.words import Words
from wanspec.triton.text import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST = 500
"""Requests in a report, unless asked for otherwise: the file stays under some 25 MB."""


@click.command(cls=JsonErrors, failed="an input cannot be read, or the file not written; the message says which")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--tokenizer",
    metavar="MODEL",
    help="Name or folder of a model with the log's token ids.  [default: found among the models here]",
)
@click.option("--most", type=click.IntRange(1), default=MOST, show_default=True, help="Requests, the latest ones.")
@click.option("--title", default="WANSpec report", show_default=True)
@click.option("--no-text", is_flag=True, help="Leave prompts and tokens out: the file can be passed on.")
@JSON_OPTION
def report(
    inputs: tuple[Path, ...],
    output: Path,
    tokenizer: str | None,
    most: int,
    title: str,
    no_text: bool,
    as_json: bool,
) -> None:
    """Draw where the time of requests went, from INPUTS, as one HTML file that needs no server and no network.

    An input is an event log, of one request or of a whole controller, or a trace export of an OpenTelemetry collector
    (OTLP JSON lines); gzip is fine. Logs are replayed through the controller's own code. docs/report.md shows the page.

    \b
    Examples:
      wanspec generate "Why is the sky blue?" --explain --json > answer.json; wanspec report answer.json
      wanspec up --event-log log.jsonl            and later: wanspec report log.jsonl -o today.html
      wanspec report traces.jsonl.gz --no-text
      wanspec report log.jsonl --json             the totals, for programs
    """
    # The policies' small systems of equations are slower on several threads.
    with waiting("replaying") as tell, threadpool_limits(1, user_api="blas"):
        found = read_inputs(inputs)
        if not found.timelines:
            raise ConfigError("inputs", f"no request has ended in {', '.join(map(str, inputs))}; give {KINDS}")
        kept = keep(found, most)
        tell("writing")
        words = Words() if no_text else Words(_tokenizer(tokenizer, found.tokenizers))
        _write(output, [without_text(each) for each in kept] if no_text else kept, words, title, found.notes)
    if as_json:
        click.echo(json.dumps(_as_json(output, kept, found.notes)))
        return
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(f"{len(kept):,} request{'' if len(kept) == 1 else 's'}: {output.absolute()}")


def write_answers(
    path: Path,
    answers: Iterable[tuple[str, Sequence[str]]],
    tokenizer: Tokenizer | None,
    *,
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Write a report of answers that came with event logs.

    Args:
        path: of the file.
        answers: what each is called, and its log.
        tokenizer: of the endpoint, where it is at hand.
        title: of the page.
        notes: what a reader should know.

    Raises:
        ProtocolError: a log cannot be read.
        ConfigError: the file cannot be written.
    """
    found = Found(notes=list(notes))
    for name, log in answers:
        if not log:
            raise ProtocolError(
                "event_log: the endpoint sent none; it needs return_event_log, which this version sends"
            )
        found.add_log(log, name)
    _write(path, found.timelines, Words(tokenizer), title, found.notes)


def check_parent(field: str, path: Path | None) -> None:
    """Refuse a file in a folder that is not there, before anything is asked.

    Raises:
        ConfigError: names the field.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigError(field, f"the folder {path.absolute().parent} does not exist; make it first")


def keep(found: Found, most: int) -> list[Timeline]:
    """The latest requests, and a note if there were more."""
    more = len(found.timelines) - most
    if more > 0:
        found.notes.append(f"Of {len(found.timelines):,} requests, the latest {most:,} are shown (--most).")
    return found.timelines[-most:]


def _write(path: Path, timelines: Sequence[Timeline], words: Words, title: str, notes: Sequence[str]) -> None:
    check_parent("output", path)
    write_report(path, timelines, words=words, title=title, notes=notes)


def _tokenizer(named: str | None, digests: set[bytes]) -> Tokenizer | None:
    """The tokenizer that was named; or one of the models that are here already, if it is that of the logs."""
    if named is not None:
        folder = cached_folder(named) if named in CATALOG else Path(named).expanduser()
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                "tokenizer", f"there is no {folder / 'tokenizer.json'}; name a model that is here, or a folder"
            )
        return load_tokenizer(folder)
    if len(digests) != 1:
        return None
    for name in CATALOG:
        if is_ready(name) and fingerprint(cached_folder(name)).tokenizer in digests:
            return load_tokenizer(cached_folder(name))
    return None


def _as_json(output: Path, timelines: Sequence[Timeline], notes: Sequence[str]) -> dict[str, object]:
    sums = [sum(column) for column in zip(*(each.parts for each in timelines), strict=True)]
    return {
        "file": str(output.absolute()),
        "requests": len(timelines),
        "tokens": sum(len(each.tokens) for each in timelines),
        "latency_ms": round(sum(each.latency_ms for each in timelines), 3),
        "parts_ms": {name: round(value, 3) for name, value in zip(PARTS, sums, strict=True)},
        "notes": list(notes),
    }

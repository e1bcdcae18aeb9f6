"""What the report is made from: files of several kinds, told apart by what they hold."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanspec.errors import ConfigError, ProtocolError
from wanspec.report.logs import read_event_log
from wanspec.report.otlp import read_trace_files
from wanspec.report.timeline import Timeline

_GZIP = b"\x1f\x8b"
KINDS = (
    "an event log (`generate --explain --json`, or the file of `wanspec up --event-log`) or a trace export (OTLP JSON)"
)


@dataclass(slots=True)
class Found:
    """What files held.

    Attributes:
        timelines: their requests, in the order of the files.
        notes: what a reader of the report should know.
        tokenizers: digests of the tokenizers whose ids they use.
    """

    timelines: list[Timeline] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokenizers: set[bytes] = field(default_factory=set)
    _traces: dict[str, list[str]] = field(default_factory=dict)

    def add_log(self, lines: Iterable[str], source: str) -> None:
        """Add an event log; one file can hold several, as each start of a controller begins one.

        Raises:
            ProtocolError: it cannot be read.
        """
        logs = list(_logs(lines))
        running = 0
        for number, log in enumerate(logs, 1):
            name = source if len(logs) == 1 else f"{source}, start {number}"
            found, more = read_event_log(log, name)
            self.tokenizers.add(bytes.fromhex(json.loads(log[0])["fingerprint"][0]))
            self.timelines += found
            running += more
        if running:
            self.notes.append(f"{source}: {running:,} requests had not ended when the log did, and are left out.")

    def add_traces(self, lines: Iterable[str], source: str) -> None:
        """Add a trace export, which :meth:`read` reads with the others: a trace's spans may lie in several."""
        self._traces.setdefault(source, []).extend(lines)
        self.notes.append(
            f"{source}: traces hold no messages. The ways across the WAN are drawn from the ends of rounds and passes; "
            "passes stand where the worker's own clock has them."
        )

    def read(self) -> None:
        """Read the trace exports.

        Raises:
            ProtocolError: one cannot be read; the message names it and the line.
        """
        self.timelines += read_trace_files(self._traces)
        self._traces.clear()


def read_inputs(paths: Iterable[Path]) -> Found:
    """Read files.

    Raises:
        OSError: a file cannot be read.
        ConfigError: a file is of no known kind, or damaged.
        ProtocolError: a file cannot be replayed; the message names file and line.
    """
    found, named = Found(), list(paths)
    for path in named:
        try:
            _add(found, _text(path), path.name)
        except ProtocolError as error:
            raise ProtocolError(f"{path}: {error}") from error
        except ConfigError as error:
            raise ConfigError(str(path), str(error).partition(": ")[2]) from error
    try:
        found.read()
    except ProtocolError as error:
        name, _, what = str(error).partition(": ")
        raise ProtocolError(f"{next(path for path in named if path.name == name)}: {what}") from error
    return found


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if data.startswith(_GZIP) else data).decode()
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError("input", f"is neither UTF-8 text nor whole gzip: {error}") from error


def _add(found: Found, text: str, source: str) -> None:
    whole = _json(text)
    lines = text.removesuffix("\n").split("\n")  # not at what else may end a line: it stands in texts
    first = _json(next((line for line in lines if line.strip()), ""))
    if isinstance(whole, dict) and "event_log" in whole:
        found.add_log(whole["event_log"], source)
    elif isinstance(whole, dict) and "resourceSpans" in whole:
        found.add_traces([json.dumps(whole)], source)
    elif isinstance(first, dict) and ("log" in first or "resourceSpans" in first):
        if not text.endswith("\n") and _json(lines[-1]) is None:
            lines.pop()  # it was being written
        add = found.add_log if "log" in first else found.add_traces
        add(lines, source)
    else:
        raise ConfigError("input", f"is neither {KINDS}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _logs(lines: Iterable[str]) -> Iterator[list[str]]:
    log: list[str] = []
    for line in lines:
        if line.startswith('{"log":') and log:
            yield log
            log = []
        if line.strip():
            log.append(line)
    if log:
        yield log

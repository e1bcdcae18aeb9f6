"""The page: template, style and script of this package around the data, in one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from wanspec import __version__
from wanspec.report.pack import pack
from wanspec.report.timeline import Timeline
from wanspec.report.words import Words

SCRIPTS = ("data", "format", "totals", "requests", "lanes", "pen", "waterfall", "view", "details", "table", "main")
"""The parts of the script, in order."""


def write_report(
    path: Path,
    timelines: Sequence[Timeline],
    *,
    words: Words | None = None,
    title: str = "WANSpec report",
    notes: Sequence[str] = (),
) -> None:
    """Write a report.

    Args:
        path: of the file.
        timelines: the requests, in order.
        words: for their texts; none shows token ids.
        title: of the page.
        notes: what a reader should know, a sentence each.

    Raises:
        OSError: the file cannot be written.
    """
    html = render(timelines, words=words or Words(), title=title, notes=notes)
    path.write_bytes(html.encode("utf-8", "replace"))  # digests are of the very bytes


def render(timelines: Sequence[Timeline], *, words: Words, title: str, notes: Sequence[str] = ()) -> str:
    """Return the page as HTML; arguments as in :func:`write_report`."""
    made = time.strftime("%Y-%m-%d %H:%M")
    about = {"title": title, "made": made, "version": __version__, "notes": list(notes)}
    packed = pack(timelines, words, about)
    style = _part("report.css")
    script = "\n".join(["(() => {", '"use strict";', *(_part(f"{name}.js") for name in SCRIPTS), "})();"])
    details = "\n".join(
        f'<script type="application/json" id="request-{number}">{detail}</script>'
        for number, detail in enumerate(packed.details)
    )
    return _fill(
        _part("report.html"),
        {
            # Nothing but this very script may run, and nothing may be fetched, whatever a prompt holds.
            "POLICY": f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
            "TITLE": escape(title),
            "STYLE": style,
            "INDEX": packed.listing,
            "DETAILS": details,
            "SCRIPT": script,
        },
    )


def _part(name: str) -> str:
    return files("wanspec.report").joinpath("page", name).read_text(encoding="utf-8").strip()


def _fill(template: str, values: dict[str, str]) -> str:
    """Put values in for ``{{NAME}}``, once each, so that none that a value holds is filled."""
    parts = []
    for number, part in enumerate(template.split("{{")):
        name, found, rest = part.partition("}}")
        parts.append(values[name] + rest if number and found else part)
    return "".join(parts)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

"""How answers look in a terminal: tokens coloured by origin, summaries, tables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from wanspec.core.tree import Origin
from wanspec.triton.client import Piece
from wanspec.triton.text import TextStream

STYLES: Mapping[Origin, str] = {Origin.TARGET: "", Origin.REMOTE: "bold green", Origin.LOCAL: "yellow"}
PLAIN_STYLES: Mapping[Origin, str] = {Origin.TARGET: "", Origin.REMOTE: "bold", Origin.LOCAL: "underline"}
"""Where there are no colours."""
MARKS: Mapping[Origin, tuple[str, str]] = {Origin.TARGET: ("", ""), Origin.REMOTE: ("[", "]"), Origin.LOCAL: ("{", "}")}
"""Around tokens where a terminal has neither colours nor bold."""
NAMES: Mapping[Origin, str] = {Origin.REMOTE: "remote draft", Origin.LOCAL: "local draft", Origin.TARGET: "target"}


_ROOM = 9
"""Columns that a word wants at the end of a line: more of it may follow."""


def make_console(*, color: bool = True, stderr: bool = False) -> Console:
    """A console that follows the terminal, NO_COLOR and ``--no-color``; escape codes never reach a file or a pipe."""
    return Console(no_color=True if not color else None, stderr=stderr, highlight=False, soft_wrap=False)


def shows_color(console: Console) -> bool:
    """Whether origins can be told apart by their colours."""
    return console.is_terminal and not console.no_color and os.environ.get("TERM") != "dumb"


def styles_of(console: Console) -> Mapping[Origin, str]:
    """How origins are told apart on this console: colours; bold and underlined where there are none."""
    return STYLES if shows_color(console) else PLAIN_STYLES


def legend(
    by_token: bool,
    origins: Sequence[Origin] | None = None,
    styles: Mapping[Origin, str] = STYLES,
    *,
    marks: bool = False,
) -> Text:
    """Which style means what, and how many tokens came from where.

    Args:
        by_token: whether each token has its own style; otherwise each piece has that of its first token.
        origins: of an answer's tokens, counted; None before there is an answer.
        styles: as ``styles_of`` gives them.
        marks: whether tokens are marked by characters.
    """
    text = Text()
    text.append("tokens by origin: ", style="dim")
    for index, (origin, name) in enumerate(NAMES.items()):
        text.append(" | " if index else "", style="dim")
        text.append(marked(name, origin) if marks else name, style=styles[origin])
        if origins is not None:
            text.append(f" {sum(each == origin for each in origins)}", style="dim")
    if not by_token:
        text.append(" (a piece of several tokens is shown as its first one)", style="dim")
    return text


def marked(text: str, origin: Origin) -> str:
    """Text with the marks of its origin around it, spaces outside."""
    word = text.strip()
    before, after = MARKS[origin]
    return text.replace(word, f"{before}{word}{after}", 1) if word else text


class Painter:
    """Styles pieces of an answer by the origin of their tokens.

    A piece's text comes whole. With the endpoint's tokenizer at hand it is split into its tokens' texts; where the
    split does not give the very text that came, or without a tokenizer, the piece has the style of its first token.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, styles: Mapping[Origin, str] = STYLES, *, marks: bool = False
    ) -> None:
        """``styles``: as ``styles_of`` gives them. ``marks``: put marks around tokens too."""
        self._marks = marks
        self._tokenizer = tokenizer
        self._styles = styles
        self._stream = TextStream(tokenizer) if tokenizer is not None else None

    @property
    def by_token(self) -> bool:
        """Whether tokens get their own styles."""
        return self._stream is not None

    def paint(self, piece: Piece) -> list[tuple[str, str]]:
        """The piece's text in parts, each with its style."""
        if self._stream is not None:
            texts = [self._stream.push([token]) for token in piece.tokens]
            if "".join(texts) == piece.text:
                return [self._styled(text, origin) for text, origin in zip(texts, piece.origins, strict=True)]
        return [self._styled(piece.text, piece.origins[0])] if piece.origins else [(piece.text, "")]

    def _styled(self, text: str, origin: Origin) -> tuple[str, str]:
        return marked(text, origin) if self._marks else text, self._styles[origin]

    def token(self, token: int) -> str:
        """One token as it is shown in a table: its text, quoted where that is invisible, or its number."""
        if self._tokenizer is None:
            return f"#{token}"
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return text.strip() if text.strip() else repr(text)


class Flow:
    """Breaks streamed text at spaces. A word that comes in several parts may still be broken by the terminal."""

    def __init__(self, width: int) -> None:
        """``width``: of the terminal, in columns."""
        self._width = width
        self._left = width

    def fit(self, text: str) -> str:
        """The next part of the text, with line breaks in the place of some spaces."""
        parts = []
        for part in re.findall(r"\n| [^ \n]*|[^ \n]+", text):
            needed = cell_len(part)
            if part == "\n":
                self._left = self._width
            elif part[0] == " " and max(needed, _ROOM) > self._left and self._left < self._width:
                parts.append("\n")
                part = part[1:]
                self._left = self._width - cell_len(part)
            else:
                self._left = (self._left - needed) % self._width if needed > self._left else self._left - needed
            parts.append(part)
        return "".join(parts)


def painter_for(console: Console, parameters: Mapping[str, str]) -> Painter:
    """A painter for this console, of the endpoint with these settings."""
    return Painter(find_tokenizer(parameters), styles_of(console), marks=console.is_dumb_terminal)


def legend_for(console: Console, origins: Sequence[Origin] | None = None, *, by_token: bool = True) -> Text:
    """The legend of what ``painter_for`` paints on this console; see ``legend``."""
    return legend(by_token, origins, styles_of(console), marks=console.is_dumb_terminal)


def find_tokenizer(parameters: Mapping[str, str]) -> Tokenizer | None:
    """The endpoint's tokenizer, where its target's folder is on this machine too."""
    path = Path(parameters.get("target_dir", "")) / "tokenizer.json"
    if not parameters.get("target_dir") or not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises bare Exception; colours are not worth a failure
        return None


def summary_line(summary: Mapping[str, Any]) -> str:
    """What an answer cost, in one line (``docs/endpoint.md`` describes each figure)."""
    tokens = summary["output_tokens"]
    parts = [
        f"{tokens} tokens",
        f"{ms_per_token(summary):.1f} ms/token" if tokens else "",
        f"TTFT {summary['ttft_ms']:.0f} ms" if summary.get("ttft_ms") is not None else "",
        f"{summary['rounds']} rounds",
    ]
    for origin in ("remote", "local"):
        drafted = summary[f"drafted_{origin}"]
        parts.append(f"{origin} drafts accepted {summary[f'accepted_{origin}']}/{drafted}" if drafted else "")
    parts.append(f"{summary['local_draft_passes']} local draft passes, {draft_passes_saved(summary)} saved")
    parts.append(f"RTT {summary['rtt_ms']:.0f} ms" if summary.get("rtt_ms") is not None else "no worker")
    return f"{summary['policy']}: " + ", ".join(part for part in parts if part)


def draft_passes_saved(summary: Mapping[str, Any]) -> int:
    """Drafts that were verified and that the worker made: each is a pass that the scarce region's draft did not run."""
    return int(summary["drafted_remote"])


def ms_per_token(summary: Mapping[str, Any]) -> float:
    """Latency of the whole answer by its tokens, ms."""
    return float(summary["latency_ms"]) / max(1, int(summary["output_tokens"]))

"""Colours by origin, line breaks, summaries."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from tokenizers import Tokenizer

from wanspec.cli.render import STYLES, Flow, Painter, find_tokenizer, legend, shows_color, summary_line
from wanspec.cli.tables import table
from wanspec.core.tree import Origin
from wanspec.models import resolve
from wanspec.triton.client import Piece
from wanspec.triton.text import TextStream

TEXT = "The history of the city, naïve café, 東京 and 🙂 ends here."

SENTENCE = "some words of a sentence that is longer than one line of any of these terminals, and then some"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(resolve("small-target") / "tokenizer.json"))


def pieces(tokenizer, size):
    """The text as the endpoint would send it, ``size`` tokens a piece, origins in turn."""
    ids = tokenizer.encode(TEXT).ids
    stream = TextStream(tokenizer)
    for start in range(0, len(ids), size):
        tokens = tuple(ids[start : start + size])
        yield Piece(stream.push(tokens), tokens, tuple(Origin((start + n) % 3) for n in range(len(tokens))))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_each_token_has_the_colour_of_its_origin(tokenizer, size):
    painter = Painter(tokenizer)
    assert painter.by_token
    painted = []
    for piece in pieces(tokenizer, size):
        parts = painter.paint(piece)
        assert "".join(text for text, _ in parts) == piece.text
        assert [style for _, style in parts] == [STYLES[origin] for origin in piece.origins]
        painted += parts
    whole = TextStream(tokenizer)
    assert "".join(text for text, _ in painted) == whole.push(tokenizer.encode(TEXT).ids)


def test_without_a_tokenizer_a_piece_has_one_colour_and_the_legend_says_so(tokenizer):
    painter = Painter(None)
    assert not painter.by_token
    piece = Piece("two tokens", (7, 8), (Origin.REMOTE, Origin.TARGET))
    assert painter.paint(piece) == [("two tokens", STYLES[Origin.REMOTE])]
    assert "shown as its first" in legend(painter.by_token).plain
    assert "shown as its first" not in legend(True).plain


def test_text_that_the_tokenizer_does_not_explain_is_shown_as_it_came(tokenizer):
    piece = Piece("something else", (7, 8), (Origin.LOCAL, Origin.TARGET))
    assert Painter(tokenizer).paint(piece) == [("something else", STYLES[Origin.LOCAL])]


def test_a_closing_piece_may_be_empty(tokenizer):
    assert "".join(text for text, _ in Painter(tokenizer).paint(Piece("", (), ()))) == ""


def test_tokens_in_tables_are_visible(tokenizer):
    painter = Painter(tokenizer)
    ids = tokenizer.encode("city\n\n").ids
    assert all(painter.token(token).strip() for token in ids)
    assert Painter(None).token(5) == "#5"


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("size", [1, 3])
def test_lines_break_at_spaces_within_the_width(tokenizer, width, size):
    flow = Flow(width)
    words = SENTENCE.split()
    parts = [" ".join(words[n : n + size]) for n in range(0, len(words), size)]
    shown = "".join(flow.fit(part if n == 0 else f" {part}") for n, part in enumerate(parts))
    assert all(cell_len(line) <= width for line in shown.split("\n"))
    assert shown.replace("\n", " ") == " ".join(words)
    assert shown.count("\n") >= len(" ".join(words)) // width


def test_line_breaks_of_the_answer_start_a_line():
    flow = Flow(20)
    assert flow.fit("0123456789\n") + flow.fit("0123456789 0") == "0123456789\n0123456789 0"


SUMMARY = {
    "policy": "wanspec",
    "output_tokens": 10,
    "latency_ms": 1000.0,
    "ttft_ms": 42.4,
    "rtt_ms": 31.0,
    "rounds": 6,
    "drafted_remote": 5,
    "accepted_remote": 3,
    "drafted_local": 0,
    "accepted_local": 0,
    "local_draft_passes": 0,
}


def test_summary_line_names_what_the_answer_cost():
    line = summary_line(SUMMARY)
    for part in ("wanspec: 10 tokens", "100.0 ms/token", "TTFT 42 ms", "6 rounds", "accepted 3/5", "RTT 31"):
        assert part in line
    assert "local drafts accepted" not in line
    assert "no worker" in summary_line(SUMMARY | {"rtt_ms": None, "ttft_ms": None, "output_tokens": 0})


@pytest.mark.parametrize(
    ("terminal", "no_color", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_colours_need_a_terminal_that_wants_them(terminal, no_color, shown, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), force_terminal=terminal, no_color=no_color)
    assert shows_color(console) is shown


def test_a_tokenizer_elsewhere_is_no_error(tmp_path):
    assert find_tokenizer({}) is None
    assert find_tokenizer({"target_dir": str(tmp_path)}) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert find_tokenizer({"target_dir": str(tmp_path)}) is None


def test_tables_fit_80_columns():
    console = Console(file=io.StringIO(), width=80)
    view = table("policy!", "figure#", "text")
    view.add_row("target_only", "12", "word " * 40)
    console.print(view)
    assert all(len(line) <= 80 for line in console.file.getvalue().splitlines())
    assert "target_only" in console.file.getvalue()

"""Answers as they come in a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.text import Text

from wanspec.cli.progress import waiting
from wanspec.cli.render import Flow, Painter, draft_passes_saved
from wanspec.triton.client import Answer, Pending, Piece


def stream(pending: Pending, painter: Painter, console: Console) -> Answer:
    """Print an answer as it comes, coloured; return it whole. Raises as iterating over ``pending`` does."""
    flow = Flow(console.width) if console.is_terminal else None
    began = False
    try:
        for piece in _awaited(pending):
            began = True
            for text, style in painter.paint(piece):
                console.print(Text(flow.fit(text) if flow else text, style), end="", soft_wrap=True)
            console.file.flush()
    finally:
        if began:
            console.print()
    return pending.answer


def whole(pending: Pending) -> Answer:
    """Wait for an answer, and show how much of it has come. Raises as iterating over ``pending`` does."""
    with waiting("waiting for the first token") as tell:
        for _ in pending:
            tell(f"answering: {len(pending.answer.tokens)} tokens")
    return pending.answer


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values; origins by name."""
    saved = {"draft_passes_saved": draft_passes_saved(answer.summary)} if answer.summary else {}
    return {
        "text": answer.text,
        "tokens": answer.tokens,
        "origins": [origin.label for origin in answer.origins],
        "finish_reason": answer.finish_reason,
        "summary": answer.summary,
        **saved,
    }


def _awaited(pending: Pending) -> Iterator[Piece]:
    """The pieces; until the first there is something to look at."""
    with ExitStack() as until_first:
        until_first.enter_context(waiting("waiting for the first token"))
        for piece in pending:
            until_first.close()
            yield piece

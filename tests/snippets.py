"""The code blocks of README and documentation, for tests that parse or run them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Snippet:
    """One block; ``name``: page and line, for messages."""

    page: str
    name: str
    language: str
    code: str


def snippets(*pages: Path) -> Iterator[Snippet]:
    """Every block of some pages, by default of all."""
    for page in pages or PAGES:
        text = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Snippet(page.name, f"{page.name}:{line}", found[1], found[2])

"""What the documentation's site adds to the pages of docs/: the reference of commands, and files that pages link to."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from wanspec.cli.reference import markdown

OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
"""Links from docs/ to files of the repository beside it."""
COMMANDS = "commands.md"
PLACES = {"README.md": "readme.md"}
"""Where files are in the site that cannot keep their own place: docs/index.md is the first page."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page of commands, and every file outside docs/ that a page links to."""
    root = Path(config.docs_dir).parent
    files.append(File.generated(config, COMMANDS, content=markdown()))
    linked = {path for page in files.documentation_pages() for path in OUTSIDE.findall(page.content_string)}
    for path in sorted(linked):
        if (root / path).is_file():
            files.append(File.generated(config, PLACES.get(path, path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the files' place in the site, and those of the README into docs/."""
    if page.file.src_uri == PLACES["README.md"]:
        return markdown.replace("](docs/", "](")
    return OUTSIDE.sub(lambda found: "](" + PLACES.get(found[1], found[1]), markdown)

"""Tables that fit their terminal: where columns would be torn apart, rows are printed one below the other."""

from __future__ import annotations

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_LEAST_TEXT = 24
"""Columns that running text wants: narrower, it is a column of single words."""


class FittedTable(Table):
    """A table; on a terminal that is too narrow for it, a block of ``title  value`` lines for each row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        if self.least_width(console) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for row in range(self.row_count):
            yield self._block(console, row)

    def least_width(self, console: Console) -> int:
        """Terminal columns that it takes without breaking a figure or a name."""
        gaps = 2 * (len(self.columns) - 1) + 2
        return gaps + sum(self._least(console, index) for index in range(len(self.columns)))

    def _least(self, console: Console, index: int) -> int:
        column = self.columns[index]
        values = [_plain(console, cell) for cell in column.cells]
        words = [*_plain(console, column.header).split(), *(word for value in values for word in value.split())]
        longest_line = max((cell_len(line) for value in values for line in value.splitlines()), default=0)
        if column.no_wrap:
            return max([longest_line, *map(cell_len, words)], default=0)
        if column.justify == "right":  # a figure and its spread may stand one below the other
            return max(map(cell_len, words), default=0)
        return max(cell_len(_plain(console, column.header)), min(longest_line, _LEAST_TEXT))

    def _block(self, console: Console, row: int) -> RenderableType:
        titles = [" ".join(_plain(console, column.header).split()) for column in self.columns]
        values = [list(column.cells)[row] for column in self.columns]
        filled = [(title, value) for title, value in zip(titles, values, strict=True) if _plain(console, value)]
        if len(filled) == 1:
            return filled[0][1]
        block = Table.grid(padding=(0, 2))
        block.add_column(style="dim", overflow="fold")
        block.add_column(overflow="fold")
        for title, value in filled:
            block.add_row(title, value)
        return Padding(block, (0, 0, 1, 0))


def table(*titles: str) -> FittedTable:
    """An open table. A title that ends in ``#`` is of a column of numbers, one that ends in ``!`` is never wrapped."""
    made = FittedTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in titles:
        justify: Literal["right", "left"] = "right" if title.endswith("#") else "left"
        made.add_column(title.rstrip("#!"), justify=justify, overflow="fold", no_wrap=title.endswith("!"))
    return made


def _plain(console: Console, cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else console.render_str(str(cell)).plain

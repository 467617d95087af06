"""What a command prints: one JSON object, or tables that fit the terminal."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text


def show(content: Mapping[str, Any], tables: Iterable[Table], *, json: bool = False) -> None:
    """Print a result.

    Args:
        content: all of it.
        tables: what a person reads of it.
        json: print the content as one JSON object, and nothing else.
    """
    if json:
        print(json_format.dumps(content), flush=True)
        return
    console = Console()
    for table in tables:
        console.print(fitted(table, console.width))


def note(*lines: str, json: bool = False) -> None:
    """Print lines for a person; none beside a JSON object."""
    if not json:
        for line in lines:
            Console().print(line)


def renamed(old: str, new: str) -> None:
    """Say on stderr that an option has become a command."""
    print(f"paramattr: {old} is now '{new}'; the option will go", file=sys.stderr)


def narrow_table(
    title: str, caption: str, first: str, headings: Sequence[str], *, width: int | None = None
) -> Table:
    """Make a table without lines between columns, which fits into 80 of them.

    Args:
        title: above the table.
        caption: below it.
        first: heading of the first column, whose text wraps.
        headings: of the columns of numbers.
        width: the least of the first column.
    """
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)
    table.add_column(first, min_width=width)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def fitted(table: Table, width: int) -> RenderableType:
    """Fold a table that is too wide into a block per row, so that no number is cut.

    >>> table = Table("method", "1%", "5%")
    >>> table.add_row("FAIG", "7.86", "8.40")
    >>> Console(width=12).print(fitted(table, 12))
    FAIG
      1%: 7.86
      5%: 8.40
    """
    console = Console(width=width)
    with console.capture() as drawn:
        console.print(table)
    if "…" not in drawn.get():
        return table
    lines = [Text.from_markup(f"[italic]{table.title}[/]")] if table.title else []
    heads = [_flat(column.header) for column in table.columns[1:]]
    for first, *cells in zip(*(column.cells for column in table.columns), strict=True):
        lines.append(Text(_flat(first), style="bold"))
        shown = zip(heads, map(_flat, cells), strict=True)
        lines += [Text(f"  {head}: {cell}") for head, cell in shown if cell]
    if table.caption:
        lines.append(Text(str(table.caption), style="dim"))
    return Group(*lines)


def _flat(cell: Any) -> str:
    return " ".join(str(cell).split())

"""Tables of plain text that stay readable where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from paramattr.errors import printable


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Lay out rows whose first cell is a name and whose others are numbers.

    Where the whole does not fit, each name stands above its numbers.

    Args:
        head: a title per column.
        rows: cells.
        width: of the terminal.

    >>> print(columns(["layer", "share"], [["encoder.0", "53.6%"]], 20))
    layer      share
    encoder.0  53.6%
    >>> print(columns(["layer", "share"], [["encoder.0", "53.6%"]], 12))
    layer
        share
    encoder.0
        53.6%
    """
    table = [[printable(cell) for cell in cells] for cells in (head, *rows)]
    widths = [max(map(len, own)) for own in zip_longest(*table, fillvalue="")]
    name, numbers = widths[0], widths[1:]
    fits = name + sum(numbers) + 2 * len(numbers) <= width
    lines = []
    for cells in table:
        right = [cell.rjust(size) for cell, size in zip(cells[1:], numbers, strict=False)]
        if fits:
            lines.append("  ".join([cells[0].ljust(name), *right]).rstrip())
            continue
        lines += [cells[0][start : start + width] for start in range(0, len(cells[0]), width)]
        line = ""
        for cell in right:
            if line and len(line) + 2 + len(cell) > width:
                lines.append(line.rstrip())
                line = ""
            line += "  " + cell if line else "    " + cell
        lines.append(line.rstrip())
    return "\n".join(lines)


def counted(count: int, kind: str) -> str:
    """Count units of a kind.

    >>> counted(1, "attention_head"), counted(1200, "neuron")
    ('1 attention head', '1,200 neurons')
    """
    return f"{count:,} {kind.replace('_', ' ')}{'s' * (count != 1)}"

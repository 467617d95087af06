"""Forms in which scores and selections are shown: names, data frames, HTML tables and bars."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from paramattr.errors import ParamattrError, printable
from paramattr.figures import COLOURS, GREY
from paramattr.units.index import Unit


def name_of(unit: Unit) -> str:
    """Write a unit as text.

    >>> name_of(Unit("encoder.0.attention", (3,)))
    'encoder.0.attention[3]'
    """
    return f"{unit.name}[{', '.join(map(str, unit.position))}]"


def frame(columns: dict[str, Any]) -> Any:
    """Make a pandas `DataFrame`.

    Raises:
        ParamattrError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ParamattrError(
            "a data frame needs pandas, which is not installed: pip install pandas"
        ) from None
    return pandas.DataFrame(columns)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out an HTML table."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<p>{html.escape(title)}</p><table><tr>{cells}</tr>{body}</table>"


def bars(
    axis: Any,
    values: Mapping[str, float],
    title: str,
    *,
    colour: str = COLOURS[0],
    errors: Sequence[float] | None = None,
) -> None:
    """Draw a bar per name, the first on top."""
    places = range(len(values))
    axis.barh(places, list(map(float, values.values())), color=colour, xerr=errors, ecolor=GREY)
    axis.set_yticks(places, list(map(printable, values)), fontsize=7)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)

"""Scores and selections as rows, data frames, HTML and figures."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from paramattr.errors import ParamattrError, printable
from paramattr.figures import COLOURS, GREY, empty_figure
from paramattr.units.index import Unit, UnitIndex

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Ranked(Protocol):
    """Scores, as far as they are shown."""

    index: UnitIndex
    values: Tensor
    signed: Tensor
    standard_error: Tensor

    def __len__(self) -> int: ...

    def rank(self) -> Tensor:
        """List the units' numbers from the highest score to the lowest."""
        ...

    def by_layer(self) -> dict[str, float]:
        """Sum the scores of each layer's units."""
        ...


class Counted(Protocol):
    """A selection, as far as it is shown."""

    def by_layer(self) -> dict[str, int]:
        """Count the selected units of each layer."""
        ...


SHOWN = 10
"""Units that HTML and figures name."""
LAYERS = 40
"""Layers that a figure names."""


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


def scores_as_frame(scores: Ranked) -> Any:
    """Make a `DataFrame` of scores, a row per unit.

    Raises:
        ParamattrError: if pandas is not installed.
    """
    units = list(scores.index)
    return frame(
        {
            "name": [unit.name for unit in units],
            "position": [unit.position for unit in units],
            "score": scores.values.numpy(),
            "signed": scores.signed.numpy(),
            "standard_error": scores.standard_error.numpy(),
        }
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out an HTML table."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<p>{html.escape(title)}</p><table><tr>{cells}</tr>{body}</table>"


def scores_as_html(scores: Ranked) -> str:
    """Show the units of the highest scores."""
    order = scores.rank()[:SHOWN].tolist()
    rows = [
        [
            name_of(scores.index[number]),
            f"{float(scores.values[number]):.4g}",
            _or_nothing(float(scores.signed[number])),
            _or_nothing(float(scores.standard_error[number])),
        ]
        for number in order
    ]
    return table(repr(scores), ["unit", "score", "signed", "standard error"], rows)


def selection_as_html(selection: Counted) -> str:
    """Show how many units of each layer are in the set."""
    counts = [(layer, count) for layer, count in selection.by_layer().items() if count]
    return table(repr(selection), ["layer", "units"], [[name, str(n)] for name, n in counts])


def draw_scores(scores: Ranked) -> Figure:
    """Draw each layer's sum, and the units of the highest scores with their standard errors.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    layers = scores.by_layer()
    first = dict(sorted(layers.items(), key=lambda item: -abs(item[1]))[:LAYERS])
    shown = {layer: value for layer, value in layers.items() if layer in first}
    figure = empty_figure((11, max(3.5, 0.2 * len(shown) + 1.5)))
    left, right = figure.subplots(1, 2)
    title = "sum by layer" if len(shown) == len(layers) else f"sum by layer, largest {LAYERS}"
    _bars(left, list(shown), list(shown.values()), COLOURS[0], title)
    order = scores.rank()[: 2 * SHOWN].tolist()
    values = [float(scores.values[number]) for number in order]
    names = [name_of(scores.index[number]) for number in order]
    errors = [float(scores.standard_error[number]) for number in order]
    known = errors if values and not any(map(math.isnan, errors)) else None
    _bars(right, names, values, COLOURS[1], f"first {len(order)} of {len(scores)} units", known)
    return figure


def draw_selection(selection: Counted) -> Figure:
    """Draw how many units of each layer are in the set.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    counts = selection.by_layer()
    figure = empty_figure((7, max(3.0, 0.2 * len(counts) + 1.2)))
    axis = figure.subplots()
    _bars(axis, list(counts), list(map(float, counts.values())), COLOURS[0], repr(selection))
    return figure


def _bars(
    axis: Any,
    names: list[str],
    values: list[float],
    colour: str,
    title: str,
    errors: list[float] | None = None,
) -> None:
    axis.barh(range(len(names)), values, color=colour, xerr=errors, ecolor=GREY)
    axis.set_yticks(range(len(names)), list(map(printable, names)), fontsize=7)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _or_nothing(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"

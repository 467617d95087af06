"""A comparison as rows: the paper's Tab. 2 and Fig. 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from blind_sr.run import without_nan
from paramattr import Comparison

TABLE = (0.01, 0.05)
"""The shares of the filters in Tab. 2."""

Comparisons = Mapping[str, Comparison]
"""The comparison by each of `measures.PLANES`."""
Rows = list[dict[str, Any]]

_NAMES = {"function": "mask", "measured": "input"}
_NUMBERS = ("value", "low", "high")


def table_rows(comparisons: Comparisons) -> Rows:
    """Give the rows of Tab. 2: as those of `mask_filters`, with 95% intervals over photographs."""
    return [
        {
            **{key: row[key] for key in ("method", "mask", "input")},
            "pct": round(100 * row["fraction"], 6),
            **{_measured(key): row[key] for key in row if key.startswith(_NUMBERS)},
        }
        for row in _beside(comparisons, lambda comparison: comparison.rows(TABLE))
    ]


def curve_rows(comparisons: Comparisons) -> Rows:
    """Give a row per method, masked function and input, with the whole curve in lists (Fig. 3)."""
    curves: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in _beside(comparisons, Comparison.rows):
        names = {key: row[key] for key in ("method", "mask", "input")}
        curve = curves.setdefault(tuple(names.values()), names)
        curve.setdefault("pct", []).append(round(100 * row["fraction"], 6))
        for key in row:
            if key.startswith(_NUMBERS):
                curve.setdefault(_measured(key), []).append(row[key])
    return list(curves.values())


def result_rows(comparisons: Comparisons) -> dict[str, Rows]:
    """Give all that a comparison says, as lists of rows; `_blue` ends what the blue channel says.

    Leads are the first method's output difference minus each other's, over paired photographs.
    """
    return {
        "rows": table_rows(comparisons),
        "curves": curve_rows(comparisons),
        "areas": _beside(comparisons, Comparison.areas),
        "leads": _beside(comparisons, lambda c: [row for f in TABLE for row in c.leads(f)]),
        "selectivity": _beside(
            comparisons, lambda c: [row for f in TABLE for row in c.selectivity(f)]
        ),
        "damage": [without_nan(_renamed(row, "")) for row in comparisons[""].damage(TABLE)],
        "agreement": [_renamed(row, "") for row in comparisons[""].agreements(TABLE[0])],
    }


def _beside(comparisons: Comparisons, rows_of: Callable[[Comparison], Rows]) -> Rows:
    """Put the numbers of all planes into one row."""
    by_plane = [
        [_renamed(row, plane) for row in rows_of(comparison)]
        for plane, comparison in comparisons.items()
    ]
    return [
        {key: value for row in rows for key, value in row.items()}
        for rows in zip(*by_plane, strict=True)
    ]


def _renamed(row: Mapping[str, Any], plane: str) -> dict[str, Any]:
    return {
        f"{key}{plane}" if key in _NUMBERS else _NAMES.get(key, key): value
        for key, value in row.items()
    }


def _measured(number: str) -> str:
    plane = number.removeprefix("value")
    return number if plane == number else f"difference{plane}_x1000"

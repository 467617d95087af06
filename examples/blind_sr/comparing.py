"""Every method's curves on one pair: the paper's Tab. 2 and Fig. 3 as rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blind_sr.study import MASKS, Advance, Outputs, Pair, Photographs, Rankings, output_measure
from paramattr import Comparison, compare
from paramattr.faithfulness.masking import FRACTIONS, with_fractions

TABLE = (0.01, 0.05)
"""The shares of the filters in Tab. 2."""

_NAMES = {"function": "mask", "measured": "input"}


def compare_methods(
    pair: Pair,
    photographs: Photographs,
    rankings: Rankings,
    target: Outputs,
    *,
    fractions: Sequence[float] = FRACTIONS,
    edit: str = "masking",
    checkpoint: str | Path | None = None,
    advance: Advance = lambda amount: None,
) -> Comparison:
    """Draw the curve of every ranking, on blurry and on noisy input.

    Args:
        pair: baseline and target.
        photographs: on which the outputs are compared.
        rankings: of `rankings.find_filters`.
        target: the target's outputs, of `study.restore`.
        fractions: of the filters, from 0 to 1; those of Tab. 2 are added.
        edit: `"masking"`, or `"insertion"` from the baseline's side.
        checkpoint: a file that keeps what was measured, so that a run goes on where it stopped.
        advance: called with 1 after each edited network.
    """
    return compare(
        pair.target,
        pair.baseline,
        rankings,
        {condition: output_measure(photographs, condition, target) for condition in MASKS},
        fractions=with_fractions(fractions, *TABLE),
        edit=edit,
        checkpoint=checkpoint,
        advance=advance,
    )


def table_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give the rows of Tab. 2: as those of `study.mask`, with 95% intervals over photographs."""
    return [
        {
            **_renamed(row),
            "pct": round(100 * row["fraction"], 6),
            "difference_x1000": row["value"],
            "low": row["low"],
            "high": row["high"],
        }
        for row in comparison.rows(TABLE)
    ]


def curve_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give a row a method, masked function and input, with the whole curve in lists (Fig. 3)."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in comparison.rows():
        key = row["method"], row["function"], row["measured"]
        empty: dict[str, list[float]] = {"pct": [], "difference_x1000": [], "low": [], "high": []}
        own = found.setdefault(key, {**_renamed(row), **empty})
        own["pct"].append(round(100 * row["fraction"], 6))
        for name, value in (("difference_x1000", "value"), ("low", "low"), ("high", "high")):
            own[name].append(row[value])
    return list(found.values())


def result_rows(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Give all that a comparison says, as lists of rows."""
    tables = {
        "areas": comparison.areas(),
        "leads": [row for f in TABLE for row in comparison.leads(f)],
        "selectivity": [row for f in TABLE for row in comparison.selectivity(f)],
        "agreement": comparison.agreements(TABLE[0]),
    }
    renamed = {
        table: [{_NAMES.get(key, key): value for key, value in row.items()} for row in rows]
        for table, rows in tables.items()
    }
    return {"rows": table_rows(comparison), "curves": curve_rows(comparison), **renamed}


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {"method": row["method"], "mask": row["function"], "input": row["measured"]}

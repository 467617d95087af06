"""What a person reads of a comparison: Tab. 2, the figures and the files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from blind_sr.compare.experiment import CompareResult
from blind_sr.console import narrow_table
from blind_sr.data.measures import PLANE_LABELS, PLANES
from blind_sr.labels import (
    EDITS,
    FUNCTIONS,
    INPUT_LABELS,
    LABELS,
    MASKS,
    UNITS,
    VERDICTS,
    marked,
)
from blind_sr.run import save_figure, write_json, write_rows
from paramattr.plots import plot_comparison


def comparison_tables(result: Mapping[str, Any]) -> list[Table]:
    """Lay Tab. 2 out: a table per function, a line per method, with intervals and areas."""
    rows = {(r["method"], r["mask"], r["input"], r["pct"]): r for r in result["rows"]}
    areas = {(r["method"], r["mask"]): r for r in result["areas"]}
    ratios = {(r["method"], r["mask"], r["fraction"]): r["value"] for r in result["selectivity"]}
    percents = list(dict.fromkeys(r["pct"] for r in result["rows"]))
    units, verb = UNITS[result["units"]], EDITS[result["edit"]]
    tables = []
    for function in MASKS:
        own = INPUT_LABELS[function]
        table = narrow_table(
            f"{FUNCTIONS[function].capitalize()} {units} {verb}: output difference x1000",
            f"{own} input, grey outputs, 95% interval over photographs; blue: on the blue channel, "
            "as the paper's tables. x other: over the other input, "
            f"{percents[0]:g}%; area under the curve: 0 random, 1 all at once. At one of the "
            f"shares {VERDICTS}.",
            "method",
            [f"{pct:g}%{plane.replace('_', ' ')}" for pct in percents for plane in PLANES]
            + ["x other", "area"],
            width=16,
        )
        for method in dict.fromkeys(r["method"] for r in result["rows"]):
            cells = [
                cell
                for pct in percents
                for cell in _measured(rows[method, function, function, pct])
            ]
            verdicts = [
                r for r in result["damage"] if (r["method"], r["mask"]) == (method, function)
            ]
            ratio = ratios[method, function, percents[0] / 100]
            area = areas[method, function]
            table.add_row(
                marked(LABELS[method], *verdicts),
                *cells,
                "" if ratio is None else f"{ratio:.1f}",
                f"{area['value']:.2f}",
            )
        tables.append(table)
    return tables


def save(out: Path, result: CompareResult) -> Path:
    """Write a comparison: `compare.json`, `curves.csv`, the scores, and a figure per plane.

    Returns:
        The path of the figure of the grey outputs.
    """
    write_json(out / "compare.json", result.content)
    write_rows(out / "curves.csv", _points(result.rows["curves"]))
    for method, functions in result.comparisons[""].rankings.items():
        for function, several in functions.items():
            several[0].save(out / "scores" / f"{method}_{function}.safetensors")
    for plane, comparison in result.comparisons.items():
        drawn = plot_comparison(
            comparison,
            labels={**LABELS, **FUNCTIONS},
            measured_labels={name: f"{label} input" for name, label in INPUT_LABELS.items()},
            verb=EDITS[result.config.edit],
            measure=f"output difference x1000, {PLANE_LABELS[plane]}",
            units=UNITS[result.config.units],
        )
        save_figure(drawn, out / f"curves{plane}.png")
    shutil.rmtree(out / "running", ignore_errors=True)
    return out / "curves.png"


def _points(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give a row per point of each curve."""
    lists = [key for key, value in curves[0].items() if isinstance(value, list)]
    return [
        {**row, **dict(zip(lists, point, strict=True))}
        for row in curves
        for point in zip(*(row[key] for key in lists), strict=True)
    ]


def with_interval(row: Mapping[str, Any], plane: str = "") -> str:
    """Write an output difference with its interval; `plane` is one of `measures.PLANES`."""
    low, high = row[f"low{plane}"], row[f"high{plane}"]
    return f"{row[f'difference{plane}_x1000']:.2f} ({low:.2f}-{high:.2f})"


def _measured(row: Mapping[str, Any]) -> list[str]:
    own = with_interval(row).replace(" ", "\n")
    return [own, *(f"{row[f'difference{p}_x1000']:.2f}" for p in PLANES if p)]

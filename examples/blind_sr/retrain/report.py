"""What a person reads of a retraining: Tab. 3, the figure and the files."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.console import narrow_table
from blind_sr.labels import FUNCTIONS, INPUT_LABELS, LABELS
from blind_sr.retrain.experiment import RetrainResult
from blind_sr.retrain.trainings import Row
from blind_sr.run import save_figure, write_json, write_rows
from paramattr.plots import COLOURS

WIDTH = 80
"""Columns of a narrow terminal, which a table fits into."""
KINDS = {"blur": "deblur", "noise": "denoise"}

Cells = dict[tuple[str, str, str], tuple[float, float]]
"""Method, kind of filters and input to the mean and the standard deviation of the PSNR."""


def summary(rows: Sequence[Row]) -> Cells:
    """Give mean and standard deviation over the seeds of each method, kind of filters and input."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["method"], row["filters"], row["input"]), []).append(row["psnr"])
    return {
        key: (statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else 0.0)
        for key, own in found.items()
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Lay Tab. 3 out: a line per input, a column per method and kind of filters.

    As many methods stand in a table as a narrow terminal has room for.
    """
    cells = summary(result["rows"])
    return [_table(result, group, cells) for group in _groups(result["methods"])]


def _groups(methods: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    left = 0
    for method in methods:
        heads = [[kind, *LABELS[method].split()] for kind in KINDS.values()]
        width = sum(1 + max(map(len, words)) for words in heads)
        if width > left:
            groups.append([])
            left = WIDTH - len(" blurry upper ")
        groups[-1].append(method)
        left -= width
    return groups


def _table(result: Mapping[str, Any], methods: Sequence[str], cells: Cells) -> Table:
    columns = {("all", "all"): "upper\nbound"}
    for kind, head in KINDS.items():
        for method in methods:
            words = textwrap.fill(LABELS[method], 1, break_long_words=False)
            columns[method, kind] = f"{head}\n{words}"
    caption = "; ".join(
        f"{stage}: " + ", ".join(f"{INPUT_LABELS[c]} {v:.2f}" for c, v in result[stage].items())
        for stage in ("baseline", "target")
    )
    title = f"Retraining {result['pct']:g}% of the filters from the baseline: PSNR in dB"
    table = narrow_table(title, caption, "input", list(columns.values()))
    for condition in KINDS:
        line = [cells[method, kind, condition] for method, kind in columns]
        table.add_row(
            INPUT_LABELS[condition],
            *(
                f"{mean:.2f}" + (f"\n±{deviation:.2f}" if result["seeds"] > 1 else "")
                for mean, deviation in line
            ),
        )
    return table


def save(out: Path, result: RetrainResult) -> Path:
    """Write `retrain.json`, `retrain.csv` and the bar chart.

    Returns:
        The path of the chart.
    """
    write_json(out / "retrain.json", result.content)
    write_rows(out / "retrain.csv", result.rows)
    save_figure(draw_gains(result.content), out / "retrain.png")
    return out / "retrain.png"


def draw_gains(result: Mapping[str, Any]) -> Figure:
    """Draw what each method's filters gain over the baseline, per input, beside the upper bound."""
    cells = summary(result["rows"])
    methods = result["methods"]
    figure = Figure(figsize=(max(9, 2.2 * len(methods)), 4.8), layout="constrained")
    figure.suptitle(f"{result['pct']:g}% of the filters retrained for {result['iterations']} steps")
    panels = figure.subplots(1, 2)
    for panel, condition in zip(panels, FUNCTIONS, strict=True):
        start = result["baseline"][condition]
        for place, (kind, label) in enumerate(FUNCTIONS.items()):
            own = [cells[method, kind, condition] for method in methods]
            bars = panel.bar(
                [number + 0.4 * place - 0.2 for number in range(len(methods))],
                [mean - start for mean, _ in own],
                width=0.4,
                yerr=[deviation for _, deviation in own] if result["seeds"] > 1 else None,
                label=f"{label} filters",
                color=COLOURS[place],
            )
            panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        mean, _ = cells["all", "all", condition]
        panel.axhline(
            mean - start, color="k", linestyle="--", label="upper bound: all weights retrained"
        )
        panel.axhline(0, color="k", linewidth=0.8)
        panel.margins(y=0.12)
        panel.set_title(f"{INPUT_LABELS[condition]} input")
        panel.set_ylabel("PSNR over the baseline's in dB")
        labels = [textwrap.fill(LABELS[method], 10) for method in methods]
        panel.set_xticks(range(len(methods)), labels)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure

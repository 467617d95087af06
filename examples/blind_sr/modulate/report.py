"""What a person reads of a sweep over strengths: the table, the figure and the files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.data.measures import psnr
from blind_sr.data.photographs import Photographs
from blind_sr.labels import FUNCTIONS, INPUT_LABELS, MASKS
from blind_sr.modulate.experiment import ModulateResult, Rows, Sweep
from blind_sr.run import save_figure, write_json, write_rows
from paramattr.plots import COLOURS, GREY

SHOWN = (0.0, 0.3, 0.6, 1.0, 1.2, 1.5)
"""Strengths of which images are shown."""


def modulate_table(rows: Rows) -> Table:
    """Lay the rows of `psnr_rows` out, a line per strength."""
    function = FUNCTIONS[rows[0]["filters"]]
    table = Table(title=f"Strength of the {function} filters, PSNR in dB")
    for heading in ("strength", *(f"{INPUT_LABELS[condition]} input" for condition in MASKS)):
        table.add_column(heading, justify="right")
    found = {(r["strength"], r["input"]): r["psnr"] for r in rows}
    for strength in dict.fromkeys(r["strength"] for r in rows):
        values = (f"{found[strength, condition]:.2f}" for condition in MASKS)
        table.add_row(f"{strength:.1f}", *values)
    return table


def save(out: Path, result: ModulateResult) -> Path:
    """Write `modulate.json`, `psnr.csv`, the selection and the figure.

    Returns:
        The path of the figure.
    """
    write_json(out / "modulate.json", result.content)
    write_rows(out / "psnr.csv", result.rows)
    result.selection.save(out / f"{result.config.filters}_filters.safetensors")
    drawn = draw_sweep(result.outputs, result.photographs, result.content)
    save_figure(drawn, out / "modulate.png")
    shutil.rmtree(out / "running", ignore_errors=True)
    return out / "modulate.png"


def draw_sweep(outputs: Sweep, photographs: Photographs, result: Mapping[str, Any]) -> Figure:
    """Draw PSNR against strength, and the photograph that changes most at a few strengths."""
    filters, rows = result["filters"], result["rows"]
    shown = _most_changed(outputs, filters)
    strengths = [strength for strength in SHOWN if strength in outputs]
    own = [filters, *(other for other in MASKS if other != filters)]
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=(1, 1.25), squeeze=False)
    top, bottom = parts.flatten()
    axis = top.subplots()
    for number, condition in enumerate(own):
        curve = [r for r in rows if r["input"] == condition]
        x, y = ([r[key] for r in curve] for key in ("strength", "psnr"))
        label = f"{INPUT_LABELS[condition]} input"
        colour = COLOURS[MASKS.index(condition)]
        axis.plot(x, y, ("o-", "s--")[number], color=colour, markersize=4, label=label)
    axis.axvline(1, color=GREY, linestyle=":", linewidth=1, label="the target itself")
    what = f"strength of the {FUNCTIONS[filters]} filters, {result['pct']:.3g}% of all"
    axis.set_xlabel(f"{what} (0: the baseline's, 1: the target's)")
    axis.set_ylabel("PSNR, dB")
    axis.set_title(f"Mean of {len(photographs.names)} photographs", fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    top.legend(loc="outside right upper", fontsize=9, frameon=False)
    name = photographs.names[shown]
    bottom.suptitle(f"{name}, which changes most: strength and PSNR of each image", fontsize=10)
    grid = bottom.subplots(len(own), len(strengths), squeeze=False)
    for row, condition in enumerate(own):
        for column, strength in enumerate(strengths):
            image = outputs[strength][condition][shown].float().cpu()
            cell = grid[row][column]
            cell.imshow(image[0].clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
            value = float(psnr(image, photographs.high[shown].float().cpu()))
            cell.set_xlabel(f"{strength:g}: {value:.2f} dB", fontsize=9)
            if column == 0:
                cell.set_ylabel(f"{INPUT_LABELS[condition]} input", fontsize=9)
    return figure


def _most_changed(outputs: Sweep, filters: str) -> int:
    first, last = outputs[min(outputs)][filters], outputs[max(outputs)][filters]
    moved = [float((a - b).square().mean()) for a, b in zip(first, last, strict=True)]
    return max(range(len(moved)), key=moved.__getitem__)

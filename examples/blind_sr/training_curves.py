"""The curves of one network's training: a table of what was measured, and its picture."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure


def write_log(path: Path, rows: list[dict[str, float | None]]) -> None:
    """Write a line for each validation."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_curves(path: Path, rows: list[dict[str, float | None]], title: str) -> None:
    """Draw the loss, and the PSNR on each condition, over the iterations."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    left.set(title=title, xlabel="iteration", ylabel="L1 loss, mean since the point before")
    losses = [(row["iteration"], row["loss"]) for row in rows if row["loss"] is not None]
    lines = left.plot(*zip(*losses, strict=True), "k.--", label="loss") if losses else []
    conditions = [name for name in rows[0] if name.startswith("psnr_")]
    if conditions:
        right = left.twinx()
        right.set_ylabel("PSNR in dB, held-out photographs")
        for number, name in enumerate(conditions):
            points = [(row["iteration"], row[name]) for row in rows]
            label = f"PSNR, {name.removeprefix('psnr_')}"
            lines += right.plot(*zip(*points, strict=True), f"C{number}.-", label=label)
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.savefig(path, dpi=150)

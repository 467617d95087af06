"""The curves of one network's training."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from blind_sr.run import save_figure


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
    save_figure(figure, path)

"""What a person reads of a prediction: the tables, the figure, and the files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.labels import FUNCTIONS, INPUT_LABELS, INPUTS, MASKS
from blind_sr.predict.experiment import PredictResult, taken_for
from blind_sr.predict.overlaps import PREDICTED, Measured
from blind_sr.run import save_figure, write_json, write_rows
from paramattr.plots import COLOURS, GREY


def predict_tables(result: Mapping[str, Any]) -> list[Table]:
    """Lay out what `experiment.outcome` gave: the accuracy, and what each kind was taken for."""
    tested = sum(sum(result["confusion"][kind].values()) for kind in INPUTS)
    first = Table(title=f"Accuracy on {tested} blurry, noisy and clean inputs")
    first.add_column("condition")
    for heading in ("threshold", "accuracy"):
        first.add_column(heading, justify="right")
    for mask in MASKS:
        share = f"{100 * result['accuracy'][mask]:.1f}%"
        first.add_row(INPUT_LABELS[mask], f"{result['thresholds'][mask]:.3f}", share)
    second = Table(title="Inputs, what they are taken for, and their mean overlap score")
    second.add_column("input", no_wrap=True)
    for heading in ("blurry", "noisy", "both", "neither", "deblur.", "denois."):
        second.add_column(heading, justify="right", no_wrap=True)
    for kind, counts in result["confusion"].items():
        if kind == "both":
            second.add_section()
        means = (f"{result['overlaps'][kind][mask]:.3f}" for mask in MASKS)
        second.add_row(INPUT_LABELS[kind], *(str(counts[p]) for p in PREDICTED), *means)
    return [first, second]


def notes(result: PredictResult) -> list[str]:
    """Say what else a person should know."""
    again, tested = result.counts["repeated"], result.counts["test"]
    if not again:
        return []
    return [
        f"{again} of {tested} test photographs also served to find the filters or fit the "
        "thresholds: on new ones the accuracy may be lower (--find, --fit, --test)."
    ]


def save(out: Path, result: PredictResult) -> Path:
    """Write `predict.json`, `overlaps.csv`, the classifier and the figure.

    Returns:
        The path of the figure.
    """
    classifier, measured = result.classifier, result.measured
    write_json(out / "predict.json", result.content)
    rows = []
    for use, own in measured.items():
        predicted = classifier.predict_scores(own.overlaps)
        for number, (name, kind) in enumerate(zip(own.names, own.kinds, strict=True)):
            overlaps = {f"overlap_{mask}": float(own.overlaps[mask][number]) for mask in MASKS}
            row = {"set": use, "photograph": name, "input": kind, **overlaps}
            rows.append({**row, "taken": taken_for(predicted[number])})
    write_rows(out / "overlaps.csv", rows)
    classifier.save(out / f"{result.config.setting.network}_classifier.safetensors")
    figure = out / "overlaps.png"
    drawn = draw_overlaps(measured["test"], classifier.thresholds, result.config.pct)
    save_figure(drawn, figure)
    shutil.rmtree(out / "running", ignore_errors=True)
    return figure


def draw_overlaps(tested: Measured, thresholds: Mapping[str, float], pct: float) -> Figure:
    """Draw every input's two overlap scores, and the thresholds as lines."""
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, kind in enumerate(dict.fromkeys(tested.kinds)):
        x, y = (tested.overlaps[mask][tested.of_kind(kind)].tolist() for mask in MASKS)
        axis.scatter(
            x,
            y,
            s=34,
            alpha=0.75,
            linewidth=0,
            color=COLOURS[number],
            marker=("o", "s", "^", "D")[number],
            label=f"{INPUT_LABELS[kind]} input",
        )
    axis.axvline(thresholds["blur"], linestyle="--", color=GREY, label="blurry: from here right")
    axis.axhline(thresholds["noise"], linestyle=":", color=GREY, label="noisy: from here up")
    axis.set_xlabel(f"overlap with the {FUNCTIONS['blur']} filters")
    axis.set_ylabel(f"overlap with the {FUNCTIONS['noise']} filters")
    axis.set_title(f"Each input's own top {pct:g}% of the filters", fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure

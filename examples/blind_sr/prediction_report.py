"""What a person reads of a prediction: the tables, the figure, and the files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.predicting import PREDICTED, Measured, taken_for
from blind_sr.report import FUNCTIONS, INPUT_LABELS
from blind_sr.study import INPUTS, MASKS
from paramattr.plots import COLOURS, GREY
from paramattr.prediction import OverlapClassifier

KIND_LABELS = {**INPUT_LABELS, "both": "blurry and noisy"}


def predict_tables(result: dict[str, Any]) -> list[Table]:
    """Lay out what `predicting.outcome` gave: the accuracy, and what each kind was taken for."""
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
        second.add_row(KIND_LABELS[kind], *(str(counts[p]) for p in PREDICTED), *means)
    return [first, second]


def save_prediction(
    out: str | Path,
    classifier: OverlapClassifier,
    measured: Mapping[str, Measured],
    result: dict[str, Any],
) -> Path:
    """Write `predict.json`, `overlaps.csv`, the classifier and the figure.

    Args:
        out: folder, made where it is missing.
        classifier: fitted.
        measured: `"fit"` and `"test"` to the overlap scores of their inputs.
        result: what `--json` prints.

    Returns:
        The path of the figure.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "predict.json").write_text(json.dumps(result, indent=1) + "\n")
    with (out / "overlaps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "photograph", "input", *(f"overlap_{m}" for m in MASKS), "taken"])
        for use, own in measured.items():
            found = map(taken_for, classifier.predict_scores(own.overlaps))
            values = [own.overlaps[mask].tolist() for mask in MASKS]
            for *row, taken in zip(own.names, own.kinds, *values, found, strict=True):
                writer.writerow([use, *row, taken])
    classifier.save(out / f"{result['network']}_classifier.safetensors")
    figure = out / "overlaps.png"
    draw_overlaps(measured["test"], classifier.thresholds, result["pct"]).savefig(figure, dpi=150)
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
            label=f"{KIND_LABELS[kind]} input",
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

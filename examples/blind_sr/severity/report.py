"""What a person reads of a prediction of severities: tables, figures and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.console import narrow_table
from blind_sr.labels import FUNCTION_LABELS, SEVERITIES
from blind_sr.run import write_json, write_rows
from blind_sr.severity.experiment import PREDICTORS, SeverityResult
from blind_sr.severity.responses import filter_rows
from paramattr.plots import COLOURS, GREY

PREDICTOR_LABELS = {
    "overlap": "overlap scores",
    "trained": "found at one severity",
    "mean": "mean severity",
    "labels": "trained on labels",
}


def severity_tables(content: Mapping[str, Any]) -> list[Table]:
    """Lay out the errors, what is restored by severity, and how the filters respond."""
    first = narrow_table(
        "Mean absolute error of the predicted severity",
        "With 95% bootstrap intervals over the inputs, as if each were of a photograph of its own. "
        "Found at one severity: overlap scores with the filters found at the trained one alone.",
        "severity",
        [PREDICTOR_LABELS[name].replace(" ", "\n", 1) for name in PREDICTORS],
    )
    for kind, row in content["errors"].items():
        cells = [_with_interval(row[name], 3).replace(" (", "\n(") for name in PREDICTORS]
        first.add_row(f"{SEVERITIES[kind]}\n{row['from']:g} to {row['to']:g}", *cells)
    return [first, *(_boundary_table(k, rows) for k, rows in content["boundary"].items())]


def save(out: Path, result: SeverityResult) -> list[Path]:
    """Write `severity.json`, the responses, the regressor and the figures.

    Returns:
        The paths of the figures.
    """
    content = result.content
    write_json(out / "severity.json", content)
    result.regressor.save(out / f"{result.config.setting.network}_regressor.safetensors")
    for kind, response in result.responses.items():
        response.slope.save(out / f"slope_{kind}.safetensors")
        write_rows(out / f"filters_{kind}.csv", filter_rows(response, result.found[kind]))
    figures = {"predicted": draw_predicted(content), "boundary": draw_boundary(content)}
    if result.responses:
        figures["responses"] = draw_responses(content)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=150)
    (out / "running.safetensors").unlink(missing_ok=True)
    return [out / f"{name}.png" for name in figures]


def draw_predicted(content: Mapping[str, Any]) -> Figure:
    """Draw the predicted severity of each input over the true one, a panel per degradation."""
    figure, axes = _panels(content["errors"])
    for kind, axis in axes.items():
        own = content["inputs"][kind]
        for colour, name in ((GREY, "labels"), (COLOURS[0], "overlap")):
            label = f"{PREDICTOR_LABELS[name]}: {content['errors'][kind][name]['value']:.3f}"
            axis.scatter(
                own["severity"],
                own[f"predicted_{name}"],
                s=18,
                alpha=0.7,
                linewidth=0,
                color=colour,
                label=label,
            )
        ends = [content["errors"][kind][end] for end in ("from", "to")]
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.set_ylabel(f"predicted {SEVERITIES[kind]}")
        axis.legend(fontsize=8, frameon=False, title="mean absolute error", title_fontsize=8)
    return figure


def draw_boundary(content: Mapping[str, Any]) -> Figure:
    """Draw overlap scores and the gain in PSNR over the severity, a panel per degradation."""
    figure, axes = _panels(content["errors"])
    for kind, axis in axes.items():
        own, rows = content["inputs"][kind], content["boundary"][kind]
        middles = [(row["from"] + row["to"]) / 2 for row in rows]
        means = [row["overlap"][kind] for row in rows]
        label = f"overlap with the {FUNCTION_LABELS[kind]} filters"
        axis.scatter(
            own["severity"], own[f"overlap_{kind}"], s=12, alpha=0.4, linewidth=0, color=COLOURS[0]
        )
        lines = axis.plot(middles, means, "o-", color=COLOURS[0], label=label)
        axis.set_ylabel("overlap score")
        right = axis.twinx()
        low, high = ([row["gain"][end] for row in rows] for end in ("low", "high"))
        gains = [row["gain"]["value"] for row in rows]
        label = "PSNR gained over the baseline"
        lines += right.plot(middles, gains, "s--", color=COLOURS[1], label=label)
        right.fill_between(middles, low, high, alpha=0.2, linewidth=0, color=COLOURS[1])
        right.axhline(0, color=COLOURS[1], linewidth=0.6)
        right.set_ylabel("PSNR gained, dB")
        lines.append(_mark_trained(axis, content["errors"][kind]["trained_on"]))
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
        axis.legend(handles=lines, fontsize=7, frameon=False, **above)
    return figure


def draw_responses(content: Mapping[str, Any]) -> Figure:
    """Draw the mean score of each function's filters over the severity, over that of all."""
    figure, axes = _panels(content["errors"])
    for kind, axis in axes.items():
        own = content["responses"][kind]
        everything = torch.tensor(own["all"]["curve"])
        for number, name in enumerate(content["errors"]):
            curve = torch.tensor(own[name]["curve"]) / everything
            label = f"{FUNCTION_LABELS[name]} filters"
            axis.plot(own["severities"], curve, "o-", color=COLOURS[number], label=label)
        axis.axhline(1, color=GREY, linewidth=0.8)
        _mark_trained(axis, content["errors"][kind]["trained_on"])
        axis.set_ylabel("mean |attribution|, over that of all filters")
        axis.legend(fontsize=8, frameon=False)
    return figure


def _panels(kinds: Mapping[str, Any]) -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(figsize=(4.4 * len(kinds), 3.7), layout="constrained")
    axes = dict(zip(kinds, figure.subplots(1, len(kinds)), strict=True))
    for kind, axis in axes.items():
        axis.set_xlabel(SEVERITIES[kind])
        axis.grid(alpha=0.25)
        axis.spines[["top"]].set_visible(False)
    return figure, axes


def _mark_trained(axis: Axes, severity: float) -> Any:
    return axis.axvline(severity, linestyle=":", color=GREY, label="trained severity")


def _boundary_table(kind: str, rows: list[dict[str, Any]]) -> Table:
    table = narrow_table(
        f"By {SEVERITIES[kind]}",
        f"Overlap with the {FUNCTION_LABELS[kind]} filters; mean PSNR in dB, and the gain.",
        SEVERITIES[kind],
        ["inputs", "overlap", "baseline", "target", "gain"],
    )
    for row in rows:
        numbers = [f"{row['overlap'][kind]:.3f}", f"{row['baseline']:.2f}", f"{row['target']:.2f}"]
        ends = f"{row['from']:g} to {row['to']:g}"
        table.add_row(ends, str(row["inputs"]), *numbers, _with_interval(row["gain"], 2))
    return table


def _with_interval(found: Mapping[str, float], digits: int) -> str:
    low, high = f"{found['low']:.{digits}f}", f"{found['high']:.{digits}f}"
    return f"{found['value']:.{digits}f} ({low} to {high})"

"""What a person reads of several degradations: tables, the figure and the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.conditions.experiment import ConditionsResult
from blind_sr.console import narrow_table
from blind_sr.labels import FUNCTION_LABELS, INPUT_LABELS, VERDICTS, marked
from blind_sr.run import write_json
from paramattr.plots import COLOURS, GREY

UNIT_LABELS = {
    "kernel": "filters",
    "output_channel": "output channels",
    "attention_head": "attention heads",
    "neuron": "neurons",
}


def conditions_tables(content: Mapping[str, Any]) -> list[Table]:
    """Lay out the PSNR of both models, what each mask does, and what inputs are taken for."""
    names = list(content["psnr"]["target"])
    first = narrow_table(
        "Mean PSNR, dB", "", "model", [INPUT_LABELS[name] for name in names], width=10
    )
    for model, own in content["psnr"].items():
        first.add_row(model, *(f"{own[name]:.2f}" for name in names))
    tables = [first]
    tables += [_mask_table(unit, own, content) for unit, own in content["units"].items()]
    if "recognised" in content:
        tables.append(_confusion_table(content["recognised"]))
    return tables


def save(out: Path, result: ConditionsResult) -> Path:
    """Write `conditions.json`, the scores and the figure.

    Returns:
        The path of the figure.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = result.content
    write_json(out / "conditions.json", content)
    for unit, scores in result.scores.items():
        for name, own in scores.items():
            own.save(out / f"scores_{unit}_{name}.safetensors")
    figure = out / "conditions.png"
    draw_masks(content).savefig(figure, dpi=150)
    return figure


def draw_masks(content: Mapping[str, Any]) -> Figure:
    """Draw the lost share of every function by each mask: a row per units, a column per mask."""
    conditions, units = content["conditions"], content["units"]
    figure = Figure(figsize=(3.1 * len(conditions), 2.6 * len(units) + 0.5), layout="constrained")
    axes = figure.subplots(len(units), len(conditions), squeeze=False, sharey="row")
    for (unit, own), line in zip(units.items(), axes, strict=True):
        for mask, axis in zip(conditions, line, strict=True):
            for number, condition in enumerate(conditions):
                for method, style in (("faig", "o-"), ("random", ":")):
                    rows = [r for r in own["rows"] if _is(r, method, mask, condition)]
                    shares = [100 * row["fraction"] for row in rows]
                    lost = [
                        float("nan") if r["lost_share"] is None else r["lost_share"] for r in rows
                    ]
                    axis.plot(shares, lost, style, color=COLOURS[number])
            axis.axhline(0, color=GREY, linewidth=0.6)
            axis.set_title(f"{FUNCTION_LABELS[mask]} {UNIT_LABELS[unit]} masked", fontsize=9)
            axis.set_xlabel("masked, %")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("share of the gain lost")
    lines = [axis.plot([], [], "o-", color=COLOURS[n])[0] for n in range(len(conditions))]
    lines.append(axis.plot([], [], ":", color=GREY)[0])
    labels = [f"on {INPUT_LABELS[c]} input" for c in conditions] + ["random units masked"]
    figure.legend(
        lines, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False
    )
    return figure


def _is(row: Mapping[str, Any], method: str, mask: str, condition: str) -> bool:
    return (row["method"], row["function"], row["measured"]) == (method, mask, condition)


def _mask_table(unit: str, own: Mapping[str, Any], content: Mapping[str, Any]) -> Table:
    conditions = content["conditions"]
    inputs = [INPUT_LABELS[name] for name in conditions]
    table = narrow_table(
        f"{UNIT_LABELS[unit].capitalize()} masked, of {own['count']:,}",
        "Output difference x1000 on grey outputs, and after it the share of what fine-tuning "
        f"gained in squared error that is lost: 0 is the target, 1 the baseline; {VERDICTS}.",
        "mask",
        ["units", *inputs, *(f"lost,\n{name}" for name in inputs)],
    )
    for size in own["masked"]:
        for method in ("faig", "random"):
            for mask in conditions:
                rows = [
                    next(r for r in own["rows"] if _is(r, method, mask, c) and _at(r, size))
                    for c in conditions
                ]
                name = FUNCTION_LABELS[mask] if method == "faig" else "random"
                cells = [f"{row['value']:.2f}" for row in rows]
                lost = [_share(row["lost_share"]) for row in rows]
                name = marked(name, *rows[:1]) if method == "faig" else name
                table.add_row(f"{name} {size['pct']:g}%", str(size["units"]), *cells, *lost)
                if method == "random":  # one ranking serves all functions
                    break
        table.add_section()
    return table


def _at(row: Mapping[str, Any], size: Mapping[str, Any]) -> bool:
    return abs(100 * float(row["fraction"]) - float(size["pct"])) < 1e-9


def _share(value: float | None) -> str:
    return "none gained" if value is None else f"{value:.3f}"


def _confusion_table(own: Mapping[str, Any]) -> Table:
    taken = list(next(iter(own["confusion"].values())))
    table = narrow_table(
        f"Inputs, and what they are taken for: {100 * own['accuracy']:.1f}% right",
        "Right is what is taken for its own degradation alone, or a clean input for none.",
        "input",
        [INPUT_LABELS.get(name, name) for name in taken],
        width=10,
    )
    for kind, row in own["confusion"].items():
        table.add_row(INPUT_LABELS[kind], *(str(row[name]) for name in taken))
    return table

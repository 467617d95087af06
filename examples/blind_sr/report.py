"""What a person reads: the table, the figure, and the files of one analysis."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from blind_sr.comparing import Comparisons
from blind_sr.images import write_image
from blind_sr.measures import PLANES, output_difference, psnr
from blind_sr.rankings import LABELS
from blind_sr.study import (
    INPUTS,
    MASKS,
    Outputs,
    Pair,
    Photographs,
    Rankings,
    masked,
    restore,
)
from paramattr import Selection
from paramattr.plots import plot_comparison, plot_distribution

FUNCTIONS = {"blur": "deblurring", "noise": "denoising"}
INPUT_LABELS = {"blur": "blurry", "noise": "noisy", "clean": "clean"}


def mask_tables(rows: Sequence[dict[str, Any]], ratios: Sequence[dict[str, Any]]) -> list[Table]:
    """Lay the rows of `study.mask` out: a table per function, a line per method and share."""
    measured = {(r["method"], r["pct"], r["mask"], r["input"]): r for r in rows}
    compared = {(r["method"], r["pct"], r["mask"]): r for r in ratios}
    tables = []
    for function in MASKS:
        inputs = (function, MASKS[1 - MASKS.index(function)], "clean")
        own, other, clean = (INPUT_LABELS[condition] for condition in inputs)
        table = _table(
            f"{FUNCTIONS[function].capitalize()} filters masked: output difference x1000",
            f"On grey outputs; {own} blue: on the blue channel, as the paper's tables. x random: "
            f"{own} input, over random masking. x other: over {other} input.",
            ("filters", own, f"{own}\nblue", other, clean, "x random", "x other"),
        )
        previous, apart = None, len({r["pct"] for r in rows}) > 1
        for method, pct in dict.fromkeys((r["method"], r["pct"]) for r in rows):
            if apart and previous not in (None, method):
                table.add_section()
            ratio = compared.get((method, pct, function), {})
            own_row, *others = (measured[method, pct, function, c] for c in inputs)
            table.add_row(
                LABELS[method],
                f"{pct:g}%",
                *(f"{own_row[f'difference{plane}_x1000']:.2f}" for plane in PLANES),
                *(f"{row['difference_x1000']:.2f}" for row in others),
                *(_times(ratio.get(key)) for key in ("over_random", "over_other")),
            )
            previous = method
        tables.append(table)
    return tables


def psnr_table(quality: dict[str, dict[str, float]]) -> Table:
    """Lay the PSNR of baseline and target out, a line a model."""
    table = Table(title="PSNR in dB")
    table.add_column("model")
    for condition in INPUTS:
        table.add_column(f"{INPUT_LABELS[condition]} input", justify="right")
    for model, values in quality.items():
        table.add_row(model, *(f"{values[condition]:.2f}" for condition in INPUTS))
    return table


def comparison_tables(result: dict[str, Any]) -> list[Table]:
    """Lay Tab. 2 out: a table a function, a line a method, with intervals and areas."""
    rows = {(r["method"], r["mask"], r["input"], r["pct"]): r for r in result["rows"]}
    areas = {(r["method"], r["mask"]): r for r in result["areas"]}
    ratios = {(r["method"], r["mask"], r["fraction"]): r["value"] for r in result["selectivity"]}
    percents = list(dict.fromkeys(r["pct"] for r in result["rows"]))
    units = "filters" if result["units"] == "kernel" else "output channels"
    verb = "masked" if result["edit"] == "masking" else "inserted"
    tables = []
    for function in MASKS:
        own = INPUT_LABELS[function]
        table = _table(
            f"{FUNCTIONS[function].capitalize()} {units} {verb}: output difference x1000",
            f"{own} input, grey outputs, 95% interval over photographs; blue: on the blue channel, "
            "as the paper's tables. x other: over the other input, "
            f"{percents[0]:g}%; area under the curve: 0 random, 1 all at once.",
            [f"{pct:g}%{plane.replace('_', ' ')}" for pct in percents for plane in PLANES]
            + ["x other", "area"],
        )
        for method in dict.fromkeys(r["method"] for r in result["rows"]):
            cells = [
                cell
                for pct in percents
                for cell in _measured(rows[method, function, function, pct])
            ]
            ratio = ratios[method, function, percents[0] / 100]
            area = areas[method, function]
            table.add_row(LABELS[method], *cells, _times(ratio), f"{area['value']:.2f}")
        tables.append(table)
    return tables


def save_comparison(out: str | Path, comparisons: Comparisons, result: dict[str, Any]) -> Path:
    """Write a comparison: `compare.json`, `curves.csv`, the scores, and a figure per plane.

    Returns:
        The path of the figure of the grey outputs.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    names = ("method", "mask", "input")
    columns = [key for key in result["curves"][0] if key not in names]
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *columns])
        for row in result["curves"]:
            points = zip(*(row[column] for column in columns), strict=True)
            writer.writerows([*(row[name] for name in names), *point] for point in points)
    for method, functions in comparisons[""].rankings.items():
        for function, several in functions.items():
            several[0].save(out / "scores" / f"{method}_{function}.safetensors")
    for plane, comparison in comparisons.items():
        plot_comparison(
            comparison,
            labels={**LABELS, **FUNCTIONS},
            measured_labels={name: f"{label} input" for name, label in INPUT_LABELS.items()},
            verb="masked" if result["edit"] == "masking" else "inserted",
            measure=f"output difference x1000{plane.replace('_', ', ')}",
            units="filters" if result["units"] == "kernel" else "output channels",
        ).savefig(out / f"curves{plane}.png", dpi=150)
    return out / "curves.png"


def save(
    out: str | Path,
    pair: Pair,
    photographs: Photographs,
    rankings: Rankings,
    percents: Sequence[float],
    target: Outputs,
    result: dict[str, Any],
) -> Path:
    """Write the scores, selections, restored images, rows and the figure of one analysis.

    Args:
        out: folder, made where it is missing.
        pair: baseline and target.
        photographs: what was analysed.
        rankings: of `rankings.find_filters`.
        percents: shares of the filters, in percent; the first is that of images and figure.
        target: the target's outputs, of `study.restore`.
        result: what `--json` prints.

    Returns:
        The path of the figure.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    for method, functions in rankings.items():
        for function, several in functions.items():
            for number, scores in enumerate(several):
                seed = f"_{number}" if len(several) > 1 else ""
                stem = f"{method}_{function}{seed}"
                scores.save(out / "scores" / f"{stem}.safetensors")
                for pct in percents:
                    selection = scores.top(fraction=pct / 100)
                    selection.save(out / "selections" / f"{stem}_{pct:g}pct.safetensors")
    first = next(iter(rankings))
    found = {
        method: {f: several[0].top(fraction=percents[0] / 100) for f, several in functions.items()}
        for method, functions in rankings.items()
    }
    restored = _restored(pair, photographs, target, found[first])
    (out / "images").mkdir(exist_ok=True)
    for model, outputs in restored.items():
        for condition in MASKS:
            for name, image in zip(photographs.names, outputs[condition], strict=True):
                write_image(image[0], out / "images" / f"{name}_{condition}_{model}.png")
    distribution = plot_distribution(found[first], labels=FUNCTIONS, units="filters")
    distribution.savefig(out / "distribution.png", dpi=150)
    shown = _most_lost(restored, len(photographs.names))
    one = photographs.only(shown)
    only = {c: [target[c][shown]] for c in MASKS}
    for method, selections in found.items():
        name = "figure.png" if method == first else f"figure_{method}.png"
        title = f"{LABELS[method]}, {percents[0]:g}% of the filters"
        _draw(out / name, one, _restored(pair, one, only, selections), title)
    return out / "figure.png"


def _restored(
    pair: Pair, photographs: Photographs, target: Outputs, selections: dict[str, Selection]
) -> dict[str, Outputs]:
    found: dict[str, Outputs] = {"input": photographs.low, "target": target}
    for function, selection in selections.items():
        found[f"{function}_masked"] = restore(masked(pair, selection), photographs, MASKS)
    return found


def _most_lost(restored: dict[str, Outputs], photographs: int) -> int:
    """Find the photograph that loses most when each function's own filters are masked."""
    lost = [
        sum(_moved(restored, c, f"{c}_masked", number) for c in MASKS)
        for number in range(photographs)
    ]
    return max(range(photographs), key=lost.__getitem__)


def _draw(
    path: Path,
    photographs: Photographs,
    restored: dict[str, Outputs],
    title: str,
) -> None:
    columns = {
        "input": "input",
        "target": "target",
        "blur_masked": "deblurring filters masked",
        "noise_masked": "denoising filters masked",
    }
    figure = Figure(figsize=(12, 6.9), layout="constrained")
    figure.suptitle(f"{photographs.names[0]}: {title}")
    axes = figure.subplots(len(MASKS), len(columns))
    for row, condition in enumerate(MASKS):
        for column, (name, heading) in enumerate(columns.items()):
            image = restored[name][condition][0].float().cpu()
            axis = axes[row][column]
            axis.imshow(image[0].clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(heading)
            if column == 0:
                axis.set_ylabel(f"{INPUT_LABELS[condition]} input")
                axis.set_xlabel(f"{image.shape[-1]} x {image.shape[-2]} pixels")
                continue
            label = f"{float(psnr(image, photographs.high[0].float().cpu())):.2f} dB"
            if name != "target":
                moved = 1000 * _moved(restored, condition, name, 0)
                label += f", difference x1000: {moved:.2f}"
            axis.set_xlabel(label)
    figure.savefig(path, dpi=150)


def _moved(restored: dict[str, Outputs], condition: str, model: str, number: int) -> float:
    pair = restored[model][condition][number], restored["target"][condition][number]
    return float(output_difference(*pair))


def with_interval(row: dict[str, Any], plane: str = "") -> str:
    """Write an output difference with its interval; `plane` is one of `measures.PLANES`."""
    low, high = row[f"low{plane}"], row[f"high{plane}"]
    return f"{row[f'difference{plane}_x1000']:.2f} ({low:.2f}-{high:.2f})"


def _measured(row: dict[str, Any]) -> list[str]:
    own = with_interval(row).replace(" ", "\n")
    return [own, *(f"{row[f'difference{p}_x1000']:.2f}" for p in PLANES if p)]


def _table(title: str, caption: str, headings: Sequence[str]) -> Table:
    # Without lines between columns: it fits into a narrow terminal, where methods' names wrap.
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("method", min_width=16)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}"

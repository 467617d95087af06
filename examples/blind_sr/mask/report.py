"""What a person reads of a masking: the tables, the figures and the files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from blind_sr.console import narrow_table
from blind_sr.data.images import write_image
from blind_sr.data.measures import PLANE_LABELS, PLANES, Plane, grey, output_difference, psnr
from blind_sr.data.photographs import Photographs
from blind_sr.labels import FUNCTIONS, INPUT_LABELS, INPUTS, LABELS, MASKS, VERDICTS, marked
from blind_sr.mask.experiment import MaskResult, Rows, masked
from blind_sr.models.outputs import Outputs, restore
from blind_sr.models.pairs import Pair
from blind_sr.run import save_figure, write_json
from paramattr import PathProfile, Selection
from paramattr.plots import plot_distribution

Selections = dict[str, Selection]
"""Function to the filters found for it."""


def tables(result: MaskResult) -> list[Table]:
    """Lay out the PSNR of both models, and what masking does to the outputs."""
    return [
        psnr_table(result.psnr),
        path_table(result.profiles),
        *mask_tables(result.rows, result.ratios),
    ]


def path_table(profiles: Mapping[str, PathProfile]) -> Table:
    """Lay the objective along the path out, a line per condition, with the barrier."""
    first = next(iter(profiles.values()))
    table = narrow_table(
        "Mean squared error along the path",
        f"Summed over the image, on {first.samples} photographs. Barrier: how far it rises above "
        "the straight line between its ends, over their difference; above 1, mistrust the scores.",
        "input",
        ["target", *(f"{alpha:g}" for alpha in first.alphas[1:-1]), "baseline", "barrier"],
        width=10,
    )
    for function, profile in profiles.items():
        values = [f"{value:.1f}" for value in profile.values.tolist()]
        table.add_row(INPUT_LABELS[function], *values, f"{profile.barrier:.2f}")
    return table


def mask_tables(rows: Rows, ratios: Rows) -> list[Table]:
    """Lay the rows of a masking out: a table per function, a line per method and share."""
    measured = {(r["method"], r["pct"], r["mask"], r["input"]): r for r in rows}
    compared = {(r["method"], r["pct"], r["mask"]): r for r in ratios}
    tables = []
    for function in MASKS:
        inputs = (function, MASKS[1 - MASKS.index(function)], "clean")
        own, other, clean = (INPUT_LABELS[condition] for condition in inputs)
        table = narrow_table(
            f"{FUNCTIONS[function].capitalize()} filters masked: output difference x1000",
            f"On grey outputs; {own} blue: on the blue channel, as the paper's tables. x random: "
            f"{own} input, over random masking. x other: over {other} input. lost: the share of "
            f"what fine-tuning gained in squared error, 1 is the baseline; {VERDICTS}.",
            "method",
            ("filters", own, f"{own}\nblue", other, clean, "x random", "x other", "lost"),
            width=16,
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
                *(times(ratio.get(key)) for key in ("over_random", "over_other")),
                lost(ratio),
            )
            previous = method
        tables.append(table)
    return tables


def lost(ratio: Mapping[str, Any]) -> str:
    """Write the lost share, with the marks of `VERDICTS`; nothing where it is not known."""
    share = ratio.get("lost_share")
    return marked("" if share is None else f"{share:.2f}", ratio)


def psnr_table(quality: dict[str, dict[str, float]]) -> Table:
    """Lay the PSNR of baseline and target out, a line per model."""
    table = Table(title="PSNR in dB")
    table.add_column("model")
    for condition in INPUTS:
        table.add_column(f"{INPUT_LABELS[condition]} input", justify="right")
    for model, values in quality.items():
        table.add_row(model, *(f"{values[condition]:.2f}" for condition in INPUTS))
    return table


def save(out: Path, result: MaskResult) -> Path:
    """Write `result.json`, the scores, selections, restored images and figures.

    Args:
        out: folder, made where it is missing.
        result: of the experiment; its first share is that of images and figures.

    Returns:
        The path of the figure.
    """
    write_json(out / "result.json", result.content)
    _save_filters(out, result)
    pair, photographs, target = result.pair, result.photographs, result.target
    first, pct = next(iter(result.rankings)), result.config.pct[0]
    found = {
        method: {f: several[0].top(fraction=pct / 100) for f, several in functions.items()}
        for method, functions in result.rankings.items()
    }
    restored = _restored(pair, photographs, target, found[first])
    (out / "images").mkdir(exist_ok=True)
    for model, outputs in restored.items():
        for condition in MASKS:
            for name, image in zip(photographs.names, outputs[condition], strict=True):
                write_image(image[0], out / "images" / f"{name}_{condition}_{model}.png")
    distribution = plot_distribution(found[first], labels=FUNCTIONS, units="filters")
    save_figure(distribution, out / "distribution.png")
    shown = _most_lost(restored, len(photographs.names))
    one, only = photographs.only(shown), {c: [target[c][shown]] for c in MASKS}
    for method, selections in found.items():
        name = "figure.png" if method == first else f"figure_{method}.png"
        title = f"{LABELS[method]}, {pct:g}% of the filters"
        drawn = _draw(one, _restored(pair, one, only, selections), title)
        save_figure(drawn, out / name)
    shutil.rmtree(out / "running", ignore_errors=True)  # all of it is in the scores now
    return out / "figure.png"


def _save_filters(out: Path, result: MaskResult) -> None:
    for method, functions in result.rankings.items():
        for function, several in functions.items():
            for number, scores in enumerate(several):
                seed = f"_{number}" if len(several) > 1 else ""
                stem = f"{method}_{function}{seed}"
                scores.save(out / "scores" / f"{stem}.safetensors")
                for pct in result.config.pct:
                    selection = scores.top(fraction=pct / 100)
                    selection.save(out / "selections" / f"{stem}_{pct:g}pct.safetensors")


def _restored(
    pair: Pair, photographs: Photographs, target: Outputs, selections: Selections
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


def _draw(photographs: Photographs, restored: dict[str, Outputs], title: str) -> Figure:
    columns = {
        "input": "input",
        "target": "target",
        "blur_masked": "deblurring filters masked",
        "noise_masked": "denoising filters masked",
    }
    figure = Figure(figsize=(12, 7.4), layout="constrained")
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
                moved = [
                    f"{1000 * _moved(restored, condition, name, 0, PLANES[plane]):.2f} {of}"
                    for plane, of in PLANE_LABELS.items()
                ]
                label += f"\ndifference x1000: {', '.join(moved)}"
            axis.set_xlabel(label)
    return figure


def _moved(
    restored: dict[str, Outputs], condition: str, model: str, number: int, plane: Plane = grey
) -> float:
    pair = restored[model][condition][number], restored["target"][condition][number]
    return float(output_difference(*pair, plane))


def times(ratio: float | None) -> str:
    """Write a ratio; nothing where there is none."""
    return "" if ratio is None else f"{ratio:.1f}"

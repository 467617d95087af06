"""How strongly an image is restored, set by the filters found and by no parameter more."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn

from blind_sr.images import SUFFIXES, write_image
from blind_sr.measures import psnr
from blind_sr.networks import SCALE
from blind_sr.report import FUNCTIONS, INPUT_LABELS
from blind_sr.study import MASKS, Advance, Outputs, Pair, Photographs, restore
from paramattr import Selection, modulate
from paramattr.errors import ParamattrError
from paramattr.plots import COLOURS, GREY

STRENGTHS = tuple(k / 10 for k in range(16))
"""From the baseline's filters, over the target's at 1, to half again beyond them."""
SHOWN = (0.0, 0.3, 0.6, 1.0, 1.2, 1.5)
"""Strengths of which images are shown."""
TILE = 256


def sweep(
    pair: Pair,
    photographs: Photographs,
    selection: Selection,
    *,
    strengths: Sequence[float] = STRENGTHS,
    advance: Advance = lambda amount: None,
) -> dict[float, Outputs]:
    """Restore blurry and noisy inputs at each strength of the selected filters.

    Args:
        pair: baseline and target.
        photographs: what is restored.
        selection: the filters that are blended.
        strengths: 0 puts the baseline's filters in, 1 the target's.
        advance: called with 1 after each strength.

    Returns:
        Strength to outputs.
    """
    found = {}
    for strength in strengths:
        model = modulate(pair.target, pair.baseline, selection, strength)
        found[strength] = restore(model, photographs, MASKS)
        advance(1)
    return found


def psnr_rows(
    outputs: dict[float, Outputs], photographs: Photographs, filters: str
) -> list[dict[str, Any]]:
    """Give a row a strength and input: `strength`, `filters`, `input`, and the mean `psnr`."""
    return [
        {
            "strength": strength,
            "filters": filters,
            "input": condition,
            "psnr": float(torch.cat(list(map(psnr, own[condition], photographs.high))).mean()),
        }
        for condition in MASKS
        for strength, own in outputs.items()
    ]


def modulate_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay the rows of `psnr_rows` out, a line a strength."""
    function = FUNCTIONS[rows[0]["filters"]]
    table = Table(title=f"Strength of the {function} filters, PSNR in dB")
    for heading in ("strength", *(f"{INPUT_LABELS[condition]} input" for condition in MASKS)):
        table.add_column(heading, justify="right")
    found = {(r["strength"], r["input"]): r["psnr"] for r in rows}
    for strength in dict.fromkeys(r["strength"] for r in rows):
        values = (f"{found[strength, condition]:.2f}" for condition in MASKS)
        table.add_row(f"{strength:.1f}", *values)
    return table


def save_sweep(
    out: str | Path,
    outputs: dict[float, Outputs],
    photographs: Photographs,
    selection: Selection,
    result: dict[str, Any],
) -> Path:
    """Write `modulate.json`, `psnr.csv`, the selection and the figure.

    Args:
        out: folder, made where it is missing.
        outputs: of `sweep`.
        photographs: what was restored.
        selection: the filters that were blended.
        result: what `--json` prints.

    Returns:
        The path of the figure.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "modulate.json").write_text(json.dumps(result, indent=1) + "\n")
    with (out / "psnr.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["strength", "filters", "input", "psnr"])
        writer.writeheader()
        writer.writerows(result["rows"])
    selection.save(out / f"{result['filters']}_filters.safetensors")
    figure = out / "modulate.png"
    draw_sweep(outputs, photographs, result).savefig(figure, dpi=150)
    return figure


def draw_sweep(
    outputs: dict[float, Outputs], photographs: Photographs, result: dict[str, Any]
) -> Figure:
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


def restore_whole(
    model: nn.Module, low: Float[Tensor, "1 3 h w"], *, tile: int = TILE
) -> Float[Tensor, "1 3 h2 w2"]:
    """Restore an image of any size, in tiles that see as much around them as the network does.

    The result is that of the whole image at once, in the memory of one tile. A network that pools
    over the image sees all of it, and is given all of it.

    Args:
        model: a network of the study.
        low: the input.
        tile: side of a tile in pixels of the input.
    """
    height, width = low.shape[-2:]
    layers = list(model.modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    border = 1 + sum(max(layer.kernel_size) // 2 for layer in convolutions)  # 1: the upsampling
    if any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in layers):
        tile = max(height, width)
    with torch.inference_mode():
        output = low.new_empty(1, 3, SCALE * height, SCALE * width)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                rows, above = _tile(top, tile, border, height)
                columns, before = _tile(left, tile, border, width)
                found = model(low[..., rows, columns])[..., SCALE * above :, SCALE * before :]
                place = output[..., SCALE * top :, SCALE * left :][
                    ..., : SCALE * tile, : SCALE * tile
                ]
                place.copy_(found[..., : place.shape[-2], : place.shape[-1]])
    return output


def restore_file(
    pair: Pair,
    low: Float[Tensor, "1 3 h w"],
    selection: Selection,
    strength: float,
    output: Path,
) -> tuple[int, int]:
    """Restore an image with the selected filters at a strength, and write it.

    Returns:
        Width and height of what was written, in pixels.
    """
    model = modulate(pair.target, pair.baseline, selection, strength)
    restored = restore_whole(model, low.to(next(model.parameters())))
    write_image(restored[0], output)
    return restored.shape[-1], restored.shape[-2]


def load_selection(path: str | Path, pair: Pair) -> Selection:
    """Read filters that were found on a network of the pair's architecture.

    Raises:
        CheckpointError: if the file is missing, broken, or holds no selection.
        UnitError: if the selection is of another network, or empty.
    """
    selection = Selection.load(path)
    modulate(pair.target, pair.baseline, selection, 1.0)  # refuses another network's
    if not len(selection):
        raise ParamattrError(
            f"selection {path} is empty: expected at least one filter; see 'paramattr blindsr mask "
            "--out DIR', which writes selections"
        )
    return selection


def check_strength(strength: float | None) -> float:
    """Refuse a strength that is not given, or is no finite number.

    Raises:
        ParamattrError: naming what was found.
    """
    if strength is None or not math.isfinite(strength):
        raise ParamattrError(
            f"strength is {strength}: expected a finite number beside --image, such as --strength "
            "0.5; 0 for the baseline's filters, 1 for the target's"
        )
    return strength


def check_output(path: Path, image: Path) -> None:
    """Refuse a file that an image cannot be written to.

    Raises:
        ParamattrError: for an unknown ending, the input itself, or a folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ParamattrError(
            f"output {path} does not end as an image does: expected one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    if path.is_dir() or path.resolve() == image.resolve():
        raise ParamattrError(
            f"output {path} is {'a folder' if path.is_dir() else 'the input itself'}: give another "
            "file (--output)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def _most_changed(outputs: dict[float, Outputs], filters: str) -> int:
    first, last = outputs[min(outputs)][filters], outputs[max(outputs)][filters]
    moved = [float((a - b).square().mean()) for a, b in zip(first, last, strict=True)]
    return max(range(len(moved)), key=moved.__getitem__)


def _tile(start: int, tile: int, border: int, size: int) -> tuple[slice, int]:
    first = max(0, start - border)
    return slice(first, min(start + tile + border, size)), start - first

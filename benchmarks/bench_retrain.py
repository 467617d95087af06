"""Tab. 3 as gains: what retraining the filters found reaches, against others, as it gets longer.

Per input, some filters are trained from the baseline on it alone: those that a method found for
its function, those that it found for the other function, as many drawn at random in each layer as
were found there (so that only the choice within layers differs), and as many drawn anywhere. The
rate is constant and the weights are averaged, so one training is measured at every length. PSNR is
on photographs on which no filter was sought and nothing was trained. Repetitions differ in patches
and draws; methods named by --once are trained in the first alone. A run that is repeated with the
same OUT resumes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from benchmarks.benchmark import Row, say, start
from benchmarks.kept import Kept
from blind_sr.data.patches import Patches, read_photographs
from blind_sr.data.photographs import Photographs
from blind_sr.labels import INPUT_LABELS, LABELS, MASKS
from blind_sr.models.outputs import quality, restore
from blind_sr.models.pairs import Pair
from blind_sr.rankings.search import find_filters
from blind_sr.setting import Setting
from blind_sr.training.trainer import average
from paramattr import Scores, Selection, random_scores, random_within_layers, retrain_only
from paramattr.figures import COLOURS, GREY, empty_figure
from paramattr.units.significance import quantile

LENGTHS = (25, 50, 100, 200, 400, 600)
AVERAGED = 0.98
"""Decay of the averaged weights: they remember about 50 iterations."""
RIVALS = {
    "other": "over the other function's filters",
    "in_layers": "over random ones of the same layers",
    "random": "over random ones",
}
UNSTAMPED = ("out", "repetitions", "methods", "once", "figure")
"""Options that do not change what a training gives."""


@dataclass(frozen=True)
class Config:
    train: Path
    find: Path
    test: Path
    out: Path
    network: str = "srresnet"
    methods: tuple[str, ...] = ("faig", "ig", "ig-no-contrast")
    once: tuple[str, ...] = ()
    pct: float = 1.0
    crop: int = 48
    test_crop: int = 32
    repetitions: int = 3
    batch: int = 8
    patch: int = 48
    rate: float = 1e-3
    figure: Path | None = None


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Train each kind of filters in turn, repetition by repetition."""
    setting = Setting(config.network, images=config.find, crop=config.crop)
    pair, found_on = setting.load_pair(), setting.load_photographs()
    test = Setting(config.network, images=config.test, crop=config.test_crop).load_photographs()
    photographs = list(read_photographs(config.train, config.patch).values())
    rankings = find_filters(pair, found_on, config.methods)
    stamp = {n: str(value) for n, value in vars(config).items() if n not in UNSTAMPED}
    kept = Kept(config.out, stamp)
    base = quality(restore(pair.baseline, test, MASKS), test)
    rows: list[Row] = []
    for repetition in range(config.repetitions):
        for name, condition, selection in _cells(config, pair, rankings, repetition):
            train = partial(
                _trained, config, pair, photographs, test, selection, condition, repetition
            )
            own = {"filters": name, "input": condition, "repetition": repetition}
            measured = kept.rows(f"{name}_{condition}_{repetition}", train)
            rows += [{**own, **row} for row in measured]
            say(rows[-1])
        yield {
            "images": {"found on": found_on.names, "measured on": test.names},
            "baseline": base,
            "gains": _gains(rows, config.methods, base),
            "rows": rows,
        }
    if config.figure is not None:
        draw(_gains(rows, config.methods, base), config.figure)


def _cells(
    config: Config, pair: Pair, rankings: dict[str, dict[str, list[Scores]]], repetition: int
) -> Iterator[tuple[str, str, Selection]]:
    """List what is trained in a repetition: a name, the input, the filters."""
    share = config.pct / 100
    anywhere = random_scores(pair.target, reducer="kernel", seed=repetition).top(fraction=share)
    for condition, opposite in zip(MASKS, reversed(MASKS), strict=True):
        yield "random", condition, anywhere
        for method in config.methods:
            if repetition and method in config.once:
                continue
            own, other = (rankings[method][f][0].top(fraction=share) for f in (condition, opposite))
            inside = random_within_layers(own, seed=repetition).top(count=len(own))
            yield f"{method}:own", condition, own
            yield f"{method}:other", condition, other
            yield f"{method}:in_layers", condition, inside


def _trained(
    config: Config,
    pair: Pair,
    photographs: list[UInt8[Tensor, "3 h w"]],
    test: Photographs,
    selection: Selection,
    condition: str,
    repetition: int,
) -> list[Row]:
    """Train the filters on an input, and measure at every length."""
    patches = Patches(
        photographs,
        side=config.patch,
        batch_size=config.batch,
        seed=repetition,
        degradation=condition,
    )
    model = retrain_only(pair.baseline, selection)
    averaged = AveragedModel(model, multi_avg_fn=partial(average, AVERAGED))
    optimiser = torch.optim.Adam(model.parameters(), lr=config.rate, betas=(0.9, 0.99))
    rows = []
    for iteration in range(LENGTHS[-1]):
        low, high = patches.batch(iteration)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(low.to(memory_format=torch.channels_last))
        optimiser.zero_grad(set_to_none=True)
        F.l1_loss(output.float(), high).backward()
        optimiser.step()
        averaged.update_parameters(model)
        if iteration + 1 in LENGTHS:
            outputs = restore(averaged.module, test, [condition])
            psnr = quality(outputs, test)[condition]
            rows.append({"iterations": iteration + 1, "psnr": psnr})
    return rows


def _gains(rows: list[Row], methods: tuple[str, ...], base: dict[str, float]) -> list[Row]:
    """Give each method's gain over the baseline, and its lead over each rival, with intervals."""
    psnr = {
        (row["filters"], row["input"], row["iterations"], row["repetition"]): row["psnr"]
        for row in rows
    }
    found = []
    for method in methods:
        for condition in MASKS:
            for length in LENGTHS:
                own = _of(psnr, f"{method}:own", condition, length)
                gain = [value - base[condition] for value in own.values()]
                row = {"method": method, "input": condition, "iterations": length}
                leads = {}
                for rival in RIVALS:
                    name = rival if rival == "random" else f"{method}:{rival}"
                    theirs = _of(psnr, name, condition, length)
                    leads[rival] = _moments([own[n] - theirs[n] for n in own if n in theirs])
                found.append({**row, "gain": _moments(gain), "lead": leads})
    return found


def _of(psnr: dict[Any, float], name: str, condition: str, length: int) -> dict[int, float]:
    return {key[3]: value for key, value in psnr.items() if key[:3] == (name, condition, length)}


def _moments(values: list[float]) -> dict[str, float | int]:
    count = len(values)
    half = float("nan")
    if count > 1:
        half = quantile(0.05, count - 1) * statistics.stdev(values) / count**0.5
    return {"mean": statistics.fmean(values), "half_width_95": half, "repetitions": count}


def draw(gains: list[Row], file: Path) -> None:
    """Draw the leads over each rival against iterations: a row per method, a column per input."""
    methods = list(dict.fromkeys(row["method"] for row in gains))
    figure = empty_figure((9, 2.6 * len(methods)))
    grid = figure.subplots(len(methods), len(MASKS), squeeze=False, sharex=True, sharey=True)
    for axes, method in zip(grid, methods, strict=True):
        for axis, condition in zip(axes, MASKS, strict=True):
            own = [r for r in gains if (r["method"], r["input"]) == (method, condition)]
            lengths = [row["iterations"] for row in own]
            for (rival, words), colour in zip(RIVALS.items(), COLOURS, strict=False):
                leads = [row["lead"][rival] for row in own]
                means, halves = ([one[k] for one in leads] for k in ("mean", "half_width_95"))
                axis.errorbar(lengths, means, halves, marker=".", capsize=2, label=words, c=colour)
            axis.axhline(0, color=GREY, linewidth=0.8)
            axis.set_xscale("log")
            axis.set_xticks(lengths, [f"{n}" for n in lengths], minor=False)
            axis.set_xlim(0.8 * lengths[0], 1.25 * lengths[-1])
            axis.minorticks_off()
            axis.set_yscale("symlog", linthresh=0.5)
            axis.set_yticks(
                [-0.4, -0.2, 0, 0.2, 0.4, 1, 2], ["−0.4", "−0.2", "0", "0.2", "0.4", "1", "2"]
            )
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_title(f"{LABELS[method]}, {INPUT_LABELS[condition]} input", fontsize=9)
        axes[0].set_ylabel("lead in dB", fontsize=9)
    for axis in grid[-1]:
        axis.set_xlabel("iterations", fontsize=9)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    start(Config, run)

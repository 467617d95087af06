"""Own loss against the other function's loss, over weights of the contrast and shares of the units.

    python -m benchmarks.bench_frontier [--find DIR --judge DIR] [--crop N] [--nodes N]
        [--judge-crop N] [--networks NAME ...] [--figure FILE] [--name NAME]

Every method that looks at data ranks the units on one set of photographs; units are masked on
another. A method's frontier is the largest own loss that any weight and share reaches for at most
so much of the other function's loss. Losses are output differences (grey), as shares of what all
units of that kind come to; the area is the frontier's mean over the logarithm of the other's loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.benchmark import say, start
from blind_sr.data.measures import output_difference
from blind_sr.data.photographs import Photographs, load_photographs
from blind_sr.models.pairs import Pair, load_pair
from paramattr import (
    FAIG,
    Bootstrap,
    InputPathIntegratedGradients,
    Scores,
    contrast,
    fisher_times_change,
    gradient_times_change,
)
from paramattr.faithfulness.curves import Curve
from paramattr.faithfulness.masking import Measure, curves

FUNCTIONS = ("blur", "noise")
Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
        find: folder of photographs that find the units; those that are bundled by default.
        judge: folder of photographs that judge them.
        crop: side of the low-resolution inputs that find the units.
        judge_crop: side of those that judge them.
        nodes: of the methods that integrate.
        networks: of the study.
        units: kinds of units.
        weights: of the contrast.
        shares: of the units.
        floor: the smallest share of the other function's loss that the area begins at.
        resamples: of the bootstrap over the judging photographs.
    """

    find: Path | None = None
    judge: Path | None = None
    crop: int = 32
    judge_crop: int = 20
    nodes: int = 2
    networks: tuple[str, ...] = ("srresnet", "srcnn")
    units: tuple[str, ...] = ("kernel", "output_channel")
    weights: tuple[float | str, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, "share")
    shares: tuple[float, ...] = (0.001, 0.01, 0.05, 0.2)
    floor: float = 0.001
    resamples: int = 1000
    figure: Path | None = None


def run(config: Config) -> dict[str, list[Row]]:
    """Give the points of every frontier, the areas, and the leads of FAIG over each method."""
    found: dict[str, list[Row]] = {"points": [], "areas": [], "leads": []}
    for network in config.networks:
        pair = load_pair(network, crop=config.crop)
        finding = load_photographs(config.find, crop=config.crop)
        judging = load_photographs(config.judge, crop=config.judge_crop)
        scores = _scores(pair, finding, config)
        for units in config.units:
            names = {"network": network, "units": units}
            of_units = {
                method: {function: own[units] for function, own in plain.items()}
                for method, plain in scores.items()
            }
            measured = _measured(pair, judging, of_units, config)
            for key, rows in _rows(measured, config).items():
                found[key] += [{**names, **row} for row in rows]
            print(names, "done", flush=True)
    return found


def _scores(
    pair: Pair, photographs: Photographs, config: Config
) -> dict[str, dict[str, dict[str, Scores]]]:
    """Score both conditions by every method that looks at data; none of them is contrasted.

    Returns:
        Method, condition and units to scores.
    """
    data: Any = {function: photographs.pairs(function) for function in FUNCTIONS}
    clean: Any = {
        f: list(zip(photographs.low[f], photographs.low["clean"], strict=True)) for f in FUNCTIONS
    }
    models, options = (pair.target, pair.baseline), dict[str, Any](reducer=list(config.units))
    places = ("target", "middle", "baseline")
    path = InputPathIntegratedGradients(pair.target)
    return {
        "faig": FAIG(*models).score(data, n_steps=config.nodes, **options),
        **{
            f"taylor, {at}": gradient_times_change(*models, data, at=at, **options) for at in places
        },
        "fisher": fisher_times_change(*models, data, **options),
        "modified ig": path.score(clean, n_steps=config.nodes, **options),
    }


def _measured(
    pair: Pair,
    photographs: Photographs,
    scores: dict[str, dict[str, Scores]],
    config: Config,
) -> dict[tuple[str, str], Float[Tensor, "functions weights shares photographs"]]:
    """Mask what each method, weight and share names for a function, and measure every function.

    Returns:
        Method and function to losses, the own function first. After the shares that were asked for
        stands the loss of all units.
    """
    measures = [_measure(pair, photographs, function) for function in FUNCTIONS]
    fractions = (*config.shares, 1.0)
    found = {}
    for method, plain in scores.items():
        for place, function in enumerate(FUNCTIONS):
            other = FUNCTIONS[1 - place]
            rankings = [contrast(plain[function], plain[other], weight=w) for w in config.weights]
            drawn = _values(curves(*_models(pair), rankings, measures, fractions=fractions))
            losses = drawn.transpose(0, 1)
            found[method, function] = losses if place == 0 else losses.flip(0)
    return found


def _models(pair: Pair) -> tuple[Any, Any]:
    return pair.target, pair.baseline


def _values(drawn: Sequence[Sequence[Curve]]) -> Float[Tensor, "rankings measures shares samples"]:
    return torch.stack([torch.stack([curve.values for curve in own]) for own in drawn])


def _measure(pair: Pair, photographs: Photographs, function: str) -> Measure:
    inputs = torch.cat(photographs.low[function])
    with torch.no_grad():
        target = pair.target(inputs)

    def measure(model: Any) -> Tensor:
        return 1000 * output_difference(model(inputs), target).double()

    return measure


def area(losses: Float[Tensor, "*r functions points"], floor: float) -> Float[Tensor, "*r"]:
    """Average the frontier over the logarithm of the other's loss, from `floor` to 1.

        1 / -log(floor) ∫ max { own_p : other_p <= x } d log x

    Args:
        losses: own and other, of every point; shares of what all units come to.
        floor: where the integral begins.
    """
    own, other = losses[..., 0, :].clamp(0, 1), losses[..., 1, :].clamp(floor, 1)
    order = other.argsort(-1)
    places, best = other.gather(-1, order).log(), own.gather(-1, order).cummax(-1).values
    ends = torch.cat([places[..., 1:], torch.zeros_like(places[..., :1])], -1)
    return (best * (ends - places)).sum(-1) / -torch.tensor(floor, dtype=losses.dtype).log()


def _rows(
    measured: dict[tuple[str, str], Float[Tensor, "functions weights shares photographs"]],
    config: Config,
) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {"points": [], "areas": [], "leads": []}
    for (method, function), losses in measured.items():
        names: Row = {"function": function, "method": method}
        means = losses.mean(-1)
        shares = means / means[..., -1:]
        for place, weight in enumerate(config.weights):
            for number, share in enumerate(config.shares):
                own, other = shares[:, place, number].tolist()
                point = {"weight": weight, "share": share, "own": own, "other": other}
                rows["points"].append({**names, **point})
        for weight, part in [("any", losses)] + [
            (str(weight), losses[:, [place]]) for place, weight in enumerate(config.weights)
        ]:
            rows["areas"].append({**names, "weight": weight, **_interval([part], config)})
        if method != "faig":
            both = [measured["faig", function], losses]
            rows["leads"].append({**names, **_interval(both, config)})
    return rows


def _interval(several: Sequence[Tensor], config: Config) -> Row:
    """Give the area with its interval over photographs; of two methods, the first's lead."""
    shapes = [losses.shape[:-1] for losses in several]
    drawn = [
        Curve(tuple(range(shape.numel())), s.flatten(0, 2))
        for shape, s in zip(shapes, several, strict=True)
    ]

    def statistic(*means: Tensor) -> Tensor:
        areas = []
        for mean, shape in zip(means, shapes, strict=True):
            losses = mean.unflatten(-1, shape)
            shares = losses[..., :-1] / losses[..., -1:]
            areas.append(area(shares.flatten(-2), config.floor))
        return areas[0] if len(areas) == 1 else areas[0] - areas[1]

    return Bootstrap(resamples=config.resamples).interval(drawn, statistic)._asdict()


def draw(rows: list[Row], file: Path) -> None:
    """Draw every method's points and frontier: a row per network and units, a column a function."""
    from matplotlib.figure import Figure

    from paramattr.figures import looks

    kinds = list(dict.fromkeys((row["network"], row["units"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    drawn = looks(methods)
    figure = Figure(figsize=(10, 3.1 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(FUNCTIONS), squeeze=False)
    for line, (network, units) in enumerate(kinds):
        for column, function in enumerate(FUNCTIONS):
            axis = grid[line][column]
            for number, method in enumerate(methods):
                wanted = (network, units, function, method)
                points = sorted(
                    (row["other"], row["own"])
                    for row in rows
                    if (row["network"], row["units"], row["function"], row["method"]) == wanted
                )
                other = [max(x, 1e-5) for x, _ in points]
                best = torch.tensor([y for _, y in points]).cummax(0).values
                colour, style = drawn[method]
                wide = 2.2 if number == 0 else 1.1
                axis.step(
                    other, best, style, where="post", color=colour, linewidth=wide, label=method
                )
            axis.set_xscale("log")
            axis.set_xlim(1e-4, 1)
            axis.set_title(f"{network}, {units}: {function}", fontsize=9)
            axis.set_xlabel("loss of the other function, share of all", fontsize=8)
            axis.set_ylabel("own loss, share of all", fontsize=8)
            axis.grid(alpha=0.25)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def result(config: Config) -> dict[str, Any]:
    """Measure, print the areas, and draw the frontiers if they have a file."""
    found = run(config)
    for row in found["areas"]:
        if row["weight"] == "any":
            say(row)
    if config.figure is not None:
        draw(found["points"], config.figure)
    setting = {"floor": config.floor, "weights": config.weights, "shares": config.shares}
    return {**setting, **found}


if __name__ == "__main__":
    start(Config, result)

"""What gradients are best spent on: nodes or samples, and by which rule.

Each sample of two functions is scored alone by each rule. From these tables the ranking of any
number of samples by any rule follows: both functions' contrasts, the top 1% of which is compared
with that of the population, which is as many other samples at 8 Gauss-Legendre nodes. In draw after
draw other samples are ranked and the others are the population. Masking the top 1% is measured on
samples that no ranking of the draw saw, or on texts held out: what the function itself loses, and
the other one beside it. On the photographs that is the output difference times 1000, on texts the
rise of the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.bench_middle import overlap
from benchmarks.benchmark import Row, say, start
from benchmarks.budget_cases import CASES, Case, Source
from benchmarks.score_tables import FINEST, WAYS, score_table
from paramattr import Scores, substituted

BUDGETS = (8, 24, 48, 96, 240, 400)
"""Gradients of each condition; all samples there are where fewer are left."""
ANSWERED = (8, 48, 240)
"""Budgets of the table of what to take."""
SHARE = 0.01
CLOSE = 0.01
"""Ways whose overlap is so close to the best one's are named beside it."""


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = tuple(CASES)
    ways: tuple[str, ...] = ("middle", "gauss 2", "gauss 4", "gauss 8")
    images: Path | None = None
    crop: int = 32
    dtype: str = "float32"
    texts: int = 100
    draws: int = 20
    masked: int = 2
    scratch: Path | None = None
    figure: Path | None = None


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Measure each model; a row per model, function, rule and number of samples."""
    rows: list[Row] = []
    for model in config.models:
        scratch = config.scratch and config.scratch / model
        source = Source(config.images, config.crop, config.dtype, config.texts, scratch)
        case = CASES[model](model, source)
        rows += [say({"model": model, **row}) for row in _rows(case, config, scratch)]
        yield {
            "budgets": BUDGETS,
            "share": SHARE,
            "dtype": config.dtype,
            "draws": config.draws,
            "masked_draws": config.masked,
            "take": [say(row) for row in taken(rows)],
            "rows": rows,
        }
    if config.figure is not None:
        draw(rows, config.figure)


def _rows(case: Case, config: Config, scratch: Path | None) -> Iterator[Row]:
    functions = list(case.samples.loaders)
    finest = {f: score_table(case.samples, FINEST, f, scratch) for f in functions}
    size = len(finest[functions[0]])
    parts = [split(size, number, config.draws) for number in range(config.draws)]
    masked = range(0, config.draws, max(1, config.draws // config.masked))
    populations = [contrasts(finest, others) for _, others in parts]
    for way in config.ways:
        one = WAYS[way]
        tables = {f: score_table(case.samples, way, f, scratch) for f in functions}
        for count in dict.fromkeys(min(b // one.nodes, size // 2) for b in BUDGETS):
            if not count:
                continue
            shared: dict[str, list[float]] = {f: [] for f in functions}
            lost: dict[str, list[tuple[float, float]]] = {f: [] for f in functions}
            for number, ((known, others), population) in enumerate(
                zip(parts, populations, strict=True)
            ):
                for function, ranking in contrasts(tables, known[:count]).items():
                    shared[function].append(overlap(ranking, population[function], SHARE))
                    if number in masked:
                        lost[function].append(_masked(case, ranking, function, others))
            for function in functions:
                names = {"function": function, "way": way, "samples": count}
                yield {
                    **names,
                    "gradients": one.nodes * count,
                    **_measured(shared[function], lost[function]),
                }


def _measured(overlaps: list[float], lost: list[tuple[float, float]]) -> Row:
    own, other = (list(column) for column in zip(*lost, strict=True))
    return {
        "overlap": fmean(overlaps),
        "overlap_min": min(overlaps),
        "own": fmean(own),
        "other": fmean(other),
        "own_over_other": fmean(own) / fmean(other) if any(other) else None,
        "of_draws": {"overlap": overlaps, "own": own, "other": other},
    }


def split(size: int, number: int, draws: int) -> tuple[list[int], list[int]]:
    """Part the places into those that are ranked and the population, for one draw.

    Each draw starts at another place, so that the first samples of two draws differ.

    >>> split(10, 1, 5)
    ([2, 3, 4, 5, 6], [7, 8, 9, 0, 1])
    """
    turned = [(number * size // draws + place) % size for place in range(size)]
    return turned[: size // 2], turned[size // 2 :]


def contrasts(
    tables: Mapping[str, Float[Tensor, "samples units"]], places: list[int]
) -> dict[str, Float[Tensor, "units"]]:
    """Set each function's mean score against the other's."""
    means = {f: table[places].double().mean(0) for f, table in tables.items()}
    return {f: own - sum(m for o, m in means.items() if o != f) for f, own in means.items()}


def _masked(case: Case, ranking: Tensor, function: str, places: list[int]) -> tuple[float, float]:
    samples = case.samples
    top = Scores(samples.index, ranking).top(fraction=SHARE)
    with substituted(samples.faig.model, case.baseline, top) as edited:
        lost = case.effect(edited, places)
    own = lost.pop(function)
    return own, fmean(lost.values())


def taken(rows: list[Row]) -> Iterator[Row]:
    """Say which rule and number of samples agrees best with the population, for each budget."""
    for model in dict.fromkeys(row["model"] for row in rows):
        for budget in ANSWERED:
            found: dict[tuple[str, int], list[Row]] = {}
            for row in rows:
                if row["model"] == model and row["gradients"] <= budget:
                    found.setdefault((row["way"], row["samples"]), []).append(row)
            means = {key: fmean(row["overlap"] for row in own) for key, own in found.items()}
            best = max(means.values())
            close = sorted((k for k in means if means[k] > best - CLOSE), key=lambda k: -means[k])
            named = [f"{way} x {samples}" for way, samples in close]
            yield {"model": model, "gradients": budget, "overlap": best, "take": named}


def draw(rows: list[Row], file: Path) -> None:
    """Draw overlap, masking and selectivity against gradients: a column per model."""
    from paramattr.figures import COLOURS, GREY, empty_figure

    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = {
        "overlap": "overlap with the population's top 1%",
        "own": "own loss",
        "own_over_other": "own over other",
    }
    figure = empty_figure((4 * len(models), 8))
    grid = figure.subplots(len(lines), len(models), squeeze=False)
    shown = [way for way in WAYS if any(row["way"] == way for row in rows)]
    styles = dict(zip(shown, [*COLOURS, GREY, "#000000"], strict=False))
    for column, model in enumerate(models):
        for axis, (key, label) in zip(grid[:, column], lines.items(), strict=True):
            for way, colour in styles.items():
                points: dict[int, list[float]] = {}
                for row in rows:
                    if (row["model"], row["way"]) == (model, way) and row[key] is not None:
                        points.setdefault(row["gradients"], []).append(row[key])
                places = sorted(points)
                means = [fmean(points[place]) for place in places]
                dashed = "--" if WAYS[way].is_drawn or way.startswith("rich") else "-"
                axis.plot(places, means, dashed, marker=".", color=colour, label=way)
            axis.set_xscale("log")
            axis.set_ylabel(label, fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        grid[0][column].set_title(model, fontsize=10)
        grid[-1][column].set_xlabel("gradients of each condition", fontsize=8)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    start(Config, run)

"""Mask a text classifier's kernels by each method: the worked example of `docs/text.md`, repeated.

The code is the page's own, up to its comparison, run anew with each seed. Means and ranges are over
the seeds; a selectivity is the ratio of the losses of all seeds together.
"""

from __future__ import annotations

import doctest
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.benchmark import Row, say, start
from benchmarks.environment import RESULTS
from paramattr import Comparison, compare
from paramattr.figures import looks

PAGE = Path(__file__).parent.parent / "docs" / "text.md"
FRACTIONS = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
SHARES = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Config:
    seeds: int = 5
    excerpts: int = 300
    figure: Path = RESULTS / "local" / "text.png"


def run(config: Config) -> dict[str, Any]:
    """Run the page with every seed, and draw the curves."""
    torch.set_num_threads(1)
    found = [_of_seed(seed, config.excerpts) for seed in range(config.seeds)]
    comparisons, runs = [one for one, _ in found], [row for _, row in found]
    config.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(comparisons).savefig(config.figure, dpi=150)
    summary = [say(row) for row in summarised(comparisons, runs)]
    return {"summary": summary, "runs": runs}


def _of_seed(seed: int, excerpts: int) -> tuple[Comparison, Row]:
    started = time.perf_counter()
    page = run_page(seed)
    page["text"], page["kinds"] = page["excerpts"](page["unread"], excerpts)
    comparison = compare(
        page["target"], page["baseline"], page["rankings"], page["measures"], fractions=FRACTIONS
    )
    edited = {
        task: page["substitute"](page["target"], page["baseline"], scores.top(fraction=0.2))
        for task, scores in page["rankings"]["FAIG"].items()
    }
    row = {
        "seed": seed,
        "accuracy": {model: _accuracy(page, page[model]) for model in ("baseline", "target")},
        "accuracy_without_top_fifth": {task: _accuracy(page, m) for task, m in edited.items()},
        "areas": comparison.areas(),
        "rows": comparison.rows(),
        "selectivity": comparison.selectivity(0.2),
        "agreements": comparison.agreements(0.2),
        "seconds": round(time.perf_counter() - started, 1),
    }
    say({"seed": seed, "seconds": row["seconds"]})
    return comparison, row


def _accuracy(page: dict[str, Any], model: torch.nn.Module) -> dict[str, float]:
    writings = {"plain": page["plain"], **page["tasks"]}
    return {name: page["accuracy"](model, writing) for name, writing in writings.items()}


def run_page(seed: int) -> dict[str, Any]:
    """Run the page's code up to its comparison, and give the names that it made."""
    found: dict[str, Any] = {"__name__": "page"}
    for example in doctest.DocTestParser().get_examples(PAGE.read_text()):
        if example.source.startswith("comparison ="):
            return found
        source = f"seed = {seed}\n" if example.source == "seed = 0\n" else example.source
        exec(compile(source, str(PAGE), "exec"), found)
    raise SystemExit(f"{PAGE} makes no comparison: expected an example that begins 'comparison ='")


def lost(comparison: Comparison, method: str, function: str, measured: str) -> torch.Tensor:
    """Give what the masked target lost of a task, over the fractions."""
    values = comparison.curves[method, function, measured].mean()
    return values - values[0]


def summarised(comparisons: list[Comparison], runs: list[Row]) -> list[Row]:
    """Put the seeds together: a row per method and task."""
    rows = []
    first = comparisons[0]
    for method, function, other in first.curves:
        if function == other:
            continue
        areas = [
            row["value"]
            for run in runs
            for row in run["areas"]
            if (row["method"], row["function"]) == (method, function)
        ]
        own, others = (
            torch.stack([lost(c, method, function, measured) for c in comparisons]).mean(0)
            for measured in (function, other)
        )
        places = {share: first.fractions.index(share) for share in SHARES}
        rows.append(
            {
                "method": method,
                "function": function,
                "area": mean(areas),
                "area_range": [min(areas), max(areas)],
                "own": float(own[places[0.2]]),
                "other": float(others[places[0.2]]),
                "selectivity": {s: float(own[k] / others[k]) for s, k in places.items()},
            }
        )
    return rows


def draw(comparisons: list[Comparison]) -> Figure:
    """Draw the loss of the task sought, and of the other, as each method's kernels go."""
    figure = Figure(figsize=(9.2, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="col")
    percent = [100 * fraction for fraction in comparisons[0].fractions]
    tasks = list(dict.fromkeys(function for _, function, _ in comparisons[0].curves))
    for column, task in enumerate(tasks):
        for row, measured in enumerate((task, *(t for t in tasks if t != task))):
            axis = axes[row, column]
            for method, (colour, style) in looks(list(comparisons[0].rankings)).items():
                values = torch.stack([lost(c, method, task, measured) for c in comparisons])
                strong = method in ("FAIG", "random")
                axis.plot(
                    percent,
                    values.mean(0),
                    color=colour,
                    label=method,
                    linewidth=3 if strong else 1.6,
                    linestyle=style,
                    zorder=3 if strong else 2,
                )
                if method == "FAIG":
                    axis.fill_between(
                        percent,
                        values.amin(0),
                        values.amax(0),
                        color=colour,
                        alpha=0.13,
                        linewidth=0,
                    )
            axis.set_title(f"{task} kernels masked: loss on {measured}", fontsize=12)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=10)
            axis.set_xlim(0, 100)
            if row:
                axis.set_xlabel("kernels masked (%)", fontsize=11)
            if not column:
                axis.set_ylabel("cross entropy above the target's", fontsize=11)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        fontsize=11,
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    start(Config, run)

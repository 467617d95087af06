"""Which method finds the units that are known to carry a task, and at what cost.

    python -m benchmarks.bench_truth [--seeds N] [--signs] [--name NAME]

On the pairs of `benchmarks.ground_truths`, for every method, with the other task's scores left
alone, subtracted (Eq. 7), or subtracted as shares, and by the sign (the mean over samples of the
attribution, not of its magnitude): AUROC and precision at the truth's size, and the faithfulness of
the model that has the top units alone, by the circuit community's two numbers over its ten sizes. A
cost is in gradients per sample, one forward and one backward pass each.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.environment import write_result
from benchmarks.ground_truths import (
    GroundTruth,
    ground_truths,
    merged_adapters,
    sparse_trainings,
)
from paramattr import (
    FAIG,
    Scores,
    absolute_change,
    contrast,
    fisher_times_change,
    gradient_times_change,
    random_scores,
    substitution_effect,
    weight_magnitude,
)
from paramattr.faithfulness.masking import curves
from paramattr.units.significance import quantile

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the units, of the benchmark MIB (Mueller et al. 2025)."""
MOST_EXCHANGED = 200
"""Units up to which each is exchanged alone."""
KINDS = ("contrast", "contrast of shares", "signed contrast", "alone", "signed")
MEASURES = ("auroc", "precision", "cpr", "cmd")
Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """How often everything is trained anew.

    Attributes:
        seeds: of the trainings.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def run(config: Config) -> list[Row]:
    """Give a row per pair, method and kind of scores: means over tasks, intervals over seeds."""
    found: dict[tuple[str, ...], list[dict[str, float]]] = defaultdict(list)
    for seed in config.seeds:
        started = time.perf_counter()
        for name, pair in ground_truths(seed):
            for method, kind, measured in _measured(pair, seed):
                found[name, method, kind].append(measured)
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    rows = []
    for (name, method, kind), several in found.items():
        row: Row = {"pair": name, "method": method, "scores": kind}
        row |= {key: several[0][key] for key in ("gradients", "evaluations")}
        for key in MEASURES:
            row |= _interval(key, [one[key] for one in several])
        rows.append(row)
    return rows


def signs(config: Config) -> list[Row]:
    """Give the share of units whose attribution is positive: of the own task's, and of the other's.

    A positive one says that the unit's change lowered the task's loss.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for seed in config.seeds:
        for name, pair in (
            ("sparse trainings", sparse_trainings(seed)),
            ("merged adapters", merged_adapters(seed)),
        ):
            for method, (score, gradients) in _methods(pair, seed).items():
                plain = score() if gradients and method != "fisher" else None
                for task, scores in (plain or {}).items():
                    moved, own = scores.signed != 0, pair.truth[task].chosen
                    positive = (scores.signed > 0).double()
                    several = (own, pair.among & ~own)
                    shares = [float(positive[part & moved].mean()) for part in several]
                    found[name, method].append((shares[0], shares[1]))
    return [
        {
            "pair": name,
            "method": method,
            "own": fmean(o for o, _ in s),
            "other": fmean(x for _, x in s),
        }
        for (name, method), s in found.items()
    ]


def _measured(pair: GroundTruth, seed: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    tasks = list(pair.truth)
    for method, (score, gradients) in _methods(pair, seed).items():
        plain = score()
        if plain is None:
            continue
        kinds = KINDS if len(tasks) > 1 else ("alone", "signed")
        blind = isinstance(plain, Scores)
        for kind in ("alone",) if blind else kinds:
            if "signed" in kind and method == "fisher":
                continue  # a square has no sign
            own = {task: plain if blind else _of(plain, task, kind) for task in tasks}
            evaluations = _exchanged(pair) if method == "substitution" else 0
            measured = _measures(pair, own)
            yield method, kind, {**measured, "gradients": gradients, "evaluations": evaluations}


def _of(plain: dict[str, Scores], task: str, kind: str) -> Scores:
    scores, others = plain[task], [own for other, own in plain.items() if other != task]
    if "contrast" in kind:
        scores = contrast(scores, *others, weight="share" if "shares" in kind else 1.0)
    return scores.by("sign") if "signed" in kind else scores


def _methods(pair: GroundTruth, seed: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Give what makes each method's scores, and its gradients per sample."""
    models, data = (pair.target, pair.baseline), pair.data
    driven: dict[str, Any] = {"reducer": pair.reducer, "objective": pair.objective}
    faig = FAIG(*models, objective=pair.objective)
    blind: dict[str, Any] = {"reducer": pair.reducer}
    return {
        **{
            f"faig, {n} nodes": (
                partial(faig.score, data, reducer=pair.reducer, n_steps=n, internal_batch_size=32),
                n,
            )
            for n in (16, 2)
        },
        **{
            f"taylor, {at}": (partial(gradient_times_change, *models, data, at=at, **driven), 1)
            for at in ("target", "middle", "baseline")
        },
        "fisher": (partial(fisher_times_change, *models, data, **driven), 1),
        "substitution": (partial(_substitution, pair), 0),
        "|change|": (partial(absolute_change, *models, **blind), 0),
        "|weight|": (partial(weight_magnitude, pair.target, **blind), 0),
        "random": (partial(random_scores, pair.target, seed=seed, **blind), 0),
    }


def _substitution(pair: GroundTruth) -> Any:
    if len(pair.among) > MOST_EXCHANGED:
        return None
    return substitution_effect(
        pair.target, pair.baseline, pair.data, pair.reducer, objective=pair.objective
    )


def _exchanged(pair: GroundTruth) -> int:
    change = absolute_change(pair.target, pair.baseline, reducer=pair.reducer)
    return 1 + int(change.values.count_nonzero())


def _measures(pair: GroundTruth, scores: dict[str, Scores]) -> dict[str, float]:
    """Average over the tasks."""
    found = defaultdict(list)
    for task, own in scores.items():
        values, truth = own.values[pair.among], pair.truth[task].chosen[pair.among]
        found["auroc"].append(auroc(values, truth))
        found["precision"].append(precision(values, truth))
        faithful = _faithfulness(pair, task, own)
        places = torch.tensor(SIZES, dtype=torch.float64)
        found["cpr"].append(float(torch.trapezoid(faithful, places)))
        found["cmd"].append(float(torch.trapezoid((1 - faithful).abs(), places)))
    return {key: fmean(several) for key, several in found.items()}


def _faithfulness(pair: GroundTruth, task: str, scores: Scores) -> Float[Tensor, "sizes"]:
    """Give (m(top) - m(none)) / (m(all) - m(none)) at each size, m being minus the task's loss."""
    [[curve]] = curves(
        pair.target,
        pair.baseline,
        [scores],
        [lambda model: pair.loss(model, task)],
        fractions=(0.0, *SIZES),
        edit="insertion",
    )
    mean = curve.mean()
    return (mean[1:] - mean[0]) / (mean[-1] - mean[0])


def auroc(values: Float[Tensor, "units"], truth: Bool[Tensor, "units"]) -> float:
    """Give the chance that a unit of the truth scores above another; ties count half."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[places]
    own, rest = int(truth.sum()), int((~truth).sum())
    return float((ranks[truth].sum() - own * (own + 1) / 2) / (own * rest))


def precision(values: Float[Tensor, "units"], truth: Bool[Tensor, "units"]) -> float:
    """Give the share of the truth among as many top units."""
    top = values.sort(descending=True, stable=True).indices[: int(truth.sum())]
    return float(truth[top].double().mean())


def _interval(key: str, several: list[float]) -> Row:
    """Give the mean over seeds, and its 95% interval by Student's t."""
    mean, reach = fmean(several), float("nan")
    if len(several) > 1:
        reach = quantile(0.05, len(several) - 1) * stdev(several) / len(several) ** 0.5
    return {key: mean, f"{key}_low": mean - reach, f"{key}_high": mean + reach}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the rows if they have a name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(Config.seeds))
    parser.add_argument("--signs", action="store_true", help="the share of positive units alone")
    parser.add_argument("--name", help="keep the result as results/NAME.json")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "barrier")
    config = Config(tuple(range(options.seeds)))
    if options.signs:
        rows = signs(config)
        for row in rows:
            print(row)
        if options.name:
            command = f"python -m benchmarks.bench_truth --seeds {options.seeds} --signs"
            print(write_result(options.name, command, {"rows": rows}))
        return
    rows = run(config)
    for row in rows:
        numbers = "  ".join(
            f"{row[k]:.3f} ({row[f'{k}_low']:.3f}-{row[f'{k}_high']:.3f})" for k in MEASURES
        )
        names = f"{row['pair']:24} {row['method']:16} {row['scores']:18}"
        print(f"{names} {row['gradients']:3} {row['evaluations']:4}  {numbers}")
    if options.name:
        command = f"python -m benchmarks.bench_truth --seeds {options.seeds}"
        print(write_result(options.name, command, {"sizes": SIZES, "rows": rows}))


if __name__ == "__main__":
    main()

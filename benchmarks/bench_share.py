"""How many filters tell a degradation best: prediction by the share of the filters.

    python -m benchmarks.bench_share --find DIR --fit DIR --test DIR [--reference R] [--crop N]
        [--dtype D] [--name NAME]

Every input is ranked once; for each share the thresholds are fitted and tried anew. The gap between
the lowest overlap of the inputs that have a degradation and the highest of those that have not, on
the photographs that the thresholds are fitted on, says which share to take: the photographs under
test have no part in that.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import write_result
from blind_sr.options import Dtype
from blind_sr.predicting import Measured, outcome, ranker
from blind_sr.rankings import find_filters
from blind_sr.study import INPUTS, MASKS, Pair, Photographs, load_pair, load_photographs
from paramattr import Scores
from paramattr.prediction import OverlapClassifier

SHARES = (0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NODES = 4


def main(arguments: list[str] | None = None) -> None:
    """Rank every input, print and keep a row a share."""
    parser = argparse.ArgumentParser(description=__doc__)
    for folder in ("find", "fit", "test"):
        parser.add_argument(f"--{folder}", type=Path, required=True)
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--reference", default="truth")
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--dtype", type=Dtype, default=Dtype.float32)
    parser.add_argument("--name", default="share")
    options = parser.parse_args(arguments)
    sized = {"crop": options.crop, "dtype": options.dtype.torch}
    pair, found_on = load_pair(options.network, **sized), load_photographs(options.find, **sized)
    [rankings] = find_filters(pair, found_on, ["faig"], n_steps=NODES).values()
    fit, test = (
        _ranked(pair, load_photographs(folder, **sized), options.reference)
        for folder in (options.fit, options.test)
    )
    rows = [_row(pct, {m: rankings[m][0] for m in MASKS}, fit, test) for pct in SHARES]
    for row in rows:
        print(row)
    best = max(rows, key=lambda row: min(row["gap"].values()))
    print(f"widest gap: {best['pct']}%")
    given = {k: getattr(options, k).name for k in ("find", "fit", "test")}
    given |= {"network": options.network, "reference": options.reference}
    given |= {"crop": options.crop, "dtype": options.dtype.value}
    words = " ".join(f"--{name} {value}" for name, value in given.items())
    result = {**given, "steps": NODES, "widest_gap": best["pct"], "rows": rows}
    print(write_result(options.name, f"python -m benchmarks.bench_share {words}", result))


def _ranked(pair: Pair, photographs: Photographs, reference: str) -> list[Scores]:
    """Rank the filters for each photograph and kind of input, in that order."""
    rank = ranker(pair, reference, n_steps=NODES, method="gausslegendre")
    found = []
    for number, high in enumerate(photographs.high):
        for kind in INPUTS:
            scores = rank((photographs.low[kind][number], high))
            found.append(Scores(scores.index, scores.values.float()))  # hundreds are kept
    return found


def _row(
    pct: float, rankings: dict[str, Scores], fit: list[Scores], test: list[Scores]
) -> dict[str, Any]:
    classifier = OverlapClassifier({m: r.top(fraction=pct / 100) for m, r in rankings.items()})
    measured = [
        Measured([], list(INPUTS) * (len(own) // len(INPUTS)), classifier.scores(own))
        for own in (fit, test)
    ]
    fitted, tested = measured
    classifier.fit_scores(fitted.overlaps, fitted.labels())
    return {
        "pct": pct,
        "filters": len(classifier.found[MASKS[0]]),
        "gap": {mask: _gap(fitted.overlaps[mask], fitted.of_kind(mask)) for mask in MASKS},
        "thresholds": classifier.thresholds,
        "accuracy": outcome(classifier, tested)["accuracy"],
    }


def _gap(overlaps: Tensor, inside: list[int]) -> float:
    own = torch.zeros(len(overlaps), dtype=torch.bool)
    own[inside] = True
    return float(overlaps[own].min() - overlaps[~own].max())


if __name__ == "__main__":
    main()

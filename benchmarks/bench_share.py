"""How many filters tell a degradation best: prediction by the share of the filters.

Every input is ranked once; for each share the thresholds are fitted and tried anew. The gap between
the lowest overlap of the inputs that have a degradation and the highest of those that have not, on
the photographs that the thresholds are fitted on, says which share to take: the photographs under
test have no part in that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.benchmark import Row, say, start
from blind_sr.classify.ranking import check_reference, ranker
from blind_sr.data.photographs import Photographs
from blind_sr.labels import INPUTS, MASKS
from blind_sr.models.pairs import Pair
from blind_sr.predict.experiment import outcome
from blind_sr.predict.overlaps import Measured
from blind_sr.rankings.search import find_filters
from blind_sr.setting import Setting
from paramattr import Scores
from paramattr.prediction import OverlapClassifier

SHARES = (0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NODES = 4


@dataclass(frozen=True)
class Config:
    find: Path
    fit: Path
    test: Path
    network: str = "srresnet"
    reference: str = "truth"
    crop: int = 96
    dtype: str = "float32"


def run(config: Config) -> dict[str, Any]:
    """Rank every input once; a row per share."""
    check_reference(config.reference)
    setting = Setting(config.network, crop=config.crop, dtype=config.dtype)
    find, fit, test = (
        replace(setting, images=folder) for folder in (config.find, config.fit, config.test)
    )
    pair = setting.load_pair()
    [rankings] = find_filters(pair, find.load_photographs(), ["faig"], n_steps=NODES).values()
    fitted, tested = (
        _ranked(pair, one.load_photographs(), config.reference) for one in (fit, test)
    )
    own = {mask: rankings[mask][0] for mask in MASKS}
    rows = [say(_row(pct, own, fitted, tested)) for pct in SHARES]
    best = max(rows, key=lambda row: min(row["gap"].values()))
    given = {k: v.name if isinstance(v, Path) else v for k, v in vars(config).items()}
    return {**given, "steps": NODES, "widest_gap": best["pct"], "rows": rows}


def _ranked(pair: Pair, photographs: Photographs, reference: str) -> list[Scores]:
    """Rank the filters for each photograph and kind of input, in that order."""
    rank = ranker(pair, reference, n_steps=NODES, method="gausslegendre")
    found = []
    for number, high in enumerate(photographs.high):
        for kind in INPUTS:
            scores = rank((photographs.low[kind][number], high))
            found.append(Scores(scores.index, scores.values.float()))  # hundreds are kept
    return found


def _row(pct: float, rankings: dict[str, Scores], fit: list[Scores], test: list[Scores]) -> Row:
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
    start(Config, run)

"""What integrating along the path buys over one gradient in its middle, as rankings and sums go.

Gauss-Legendre rules of 1 node (the middle), 2, 4 and 8, against 48. Overlap is the chance-corrected
one of the top 1% and 5% of the filters with those of 48 nodes, of the mean over the photographs,
with and without the contrast; its interval is a 95% bootstrap interval over the photographs, drawn
alike for both rules. The residual is |sum of attributions - change| / |change|, per photograph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.benchmark import Row, say, start
from blind_sr.labels import MASKS
from blind_sr.setting import Setting
from paramattr import FAIG, UnitIndex

NODES = (1, 2, 4, 8)
CONVERGED = 48
SHARES = (0.01, 0.05)
RESAMPLES = 200

Scored = dict[tuple[int, str], Tensor]


@dataclass(frozen=True)
class Config:
    network: str = "srresnet"
    images: Path | None = None
    crop: int = 32


def run(config: Config) -> dict[str, Any]:
    """Attribute every photograph by every rule, and compare with the finest."""
    setting = Setting(network=config.network, images=config.images, crop=config.crop)
    pair, photographs = setting.load_pair(), setting.load_photographs()
    faig, index = FAIG(pair.target, pair.baseline), UnitIndex.of(pair.target, "kernel")
    scores: Scored = {}
    residuals: Scored = {}
    for n in (*NODES, CONVERGED):
        for condition in MASKS:
            samples = photographs.pairs(condition)
            scores[n, condition], residuals[n, condition] = attributed(faig, index, samples, n)
    generator, count = torch.Generator().manual_seed(0), len(photographs.names)
    draws = torch.randint(count, (RESAMPLES, count), generator=generator)
    weights = torch.nn.functional.one_hot(draws, count).double().mean(1)  # of each photograph
    rows = []
    for n in NODES:
        for condition in MASKS:
            own = residuals[n, condition]
            row: Row = {"condition": condition, "nodes": n, "residual": float(own.mean())}
            rows.append(say({**row, **interval(weights @ own)}))
            rows += map(say, _overlaps(scores, n, condition, weights))
    result = {"images": photographs.names, "converged": CONVERGED, "rows": rows}
    return {"network": config.network, **result}


def _overlaps(scores: Scored, nodes: int, condition: str, weights: Tensor) -> Iterator[Row]:
    for contrasted in (True, False):
        for share in SHARES:
            rule, finest = (ranked(scores, n, condition, contrasted) for n in (nodes, CONVERGED))
            drawn = [overlap(w @ rule, w @ finest, share) for w in weights]
            yield {
                "condition": condition,
                "nodes": nodes,
                "contrast": contrasted,
                "fraction": share,
                "overlap": overlap(rule.mean(0), finest.mean(0), share),
                **interval(torch.tensor(drawn)),
            }


def attributed(
    faig: FAIG, index: UnitIndex, samples: list[tuple[Tensor, Tensor]], n_steps: int
) -> tuple[Tensor, Tensor]:
    """Give each photograph's scores, `(photographs, units)`, and its relative residual."""
    scores, residuals = [], []
    for low, high in samples:
        found, delta = faig.attribute(low, high, n_steps=n_steps, return_convergence_delta=True)
        total = sum(float(a.sum(dtype=torch.float64)) for a in found.values())
        scores.append(index.reduce({name: value.abs() for name, value in found.items()}))
        residuals.append(abs(float(delta)) / abs(total - float(delta)))
    return torch.stack(scores), torch.tensor(residuals, dtype=torch.float64)


def ranked(scores: Scored, nodes: int, condition: str, contrasted: bool) -> Tensor:
    """Give each photograph's scores for a function, the other condition's taken away or not."""
    own = scores[nodes, condition]
    return own - sum(scores[nodes, c] for c in MASKS if c != condition) if contrasted else own


def overlap(one: Tensor, other: Tensor, share: float) -> float:
    """Give the chance-corrected overlap of two rankings' top units, as `paramattr.agreement`."""
    count = round(share * len(one))
    marked = torch.zeros(len(one), dtype=torch.bool)
    marked[one.topk(count).indices] = True
    shared = float(marked[other.topk(count).indices].double().mean())
    chance = count / len(one)
    return (shared - chance) / (1 - chance)


def interval(drawn: Tensor) -> dict[str, float]:
    """Give the middle 95% of what the resamples gave."""
    low, high = drawn.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return {"low": float(low), "high": float(high)}


if __name__ == "__main__":
    start(Config, run)

"""How far each rule's attributions are from summing to the objective's change.

The relative residual of a photograph is |sum of attributions - change| / |change|. The mean over
photographs is reported for each condition, beside the signed one of the sums. All rules are
measured on the first COUNT photographs, since the paper's 100 steps take long, and 8 nodes on all
of them too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.benchmark import Row, say, start
from blind_sr.labels import MASKS
from blind_sr.setting import Setting
from paramattr import FAIG

RULES = (("gausslegendre", 4), ("gausslegendre", 8), ("gausslegendre", 16), ("riemann_left", 100))


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    crop: int = 64
    count: int = 4


def run(config: Config) -> dict[str, Any]:
    """Measure every rule on every condition."""
    pair = Setting().load_pair()
    photographs = Setting(images=config.images, crop=config.crop).load_photographs()
    faig = FAIG(pair.target, pair.baseline)
    every = len(photographs.names)
    runs = [("gausslegendre", 8, every), *((*rule, config.count) for rule in RULES)]
    rows = [
        say({"condition": condition, **_residuals(faig, samples[:count], method, n_steps)})
        for condition in MASKS
        for samples in [photographs.pairs(condition)]
        for method, n_steps, count in runs
    ]
    return {"images": photographs.names, "rows": rows}


def _residuals(faig: FAIG, samples: list[Any], method: str, n_steps: int) -> Row:
    started = time.perf_counter()
    found = []
    for low, high in samples:
        attributions, delta = faig.attribute(
            low, high, n_steps=n_steps, method=method, return_convergence_delta=True
        )
        total = sum(a.sum(dtype=torch.float64) for a in attributions.values())
        found.append((float(delta), float(total - delta)))
    return {
        "method": method,
        "n_steps": n_steps,
        "photographs": len(samples),
        "mean_relative_residual": sum(abs(d / c) for d, c in found) / len(found),
        "relative_residual_of_sums": sum(d for d, _ in found) / sum(c for _, c in found),
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    start(Config, run)

"""How far targets lie from their one baseline, and what all of that change does.

The pairs are those of `bench_seeds`. Distance: the L2 norm of the change of the filters' weights,
and that over the norm of the baseline's. Whole: how far the output moves when every weight is the
baseline's. What the 1% found move (`bench_seeds`) over that says how much of the function they
hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.bench_seeds import Config as Pairs
from benchmarks.bench_seeds import pairs
from benchmarks.benchmark import Row, say, start
from blind_sr.data.measures import PLANES, output_difference
from blind_sr.labels import MASKS
from blind_sr.models.outputs import restore
from blind_sr.setting import Setting


@dataclass(frozen=True)
class Config:
    targets: tuple[Path, ...] = ()
    network: str = "srresnet"
    images: Path | None = None
    crop: int = 48


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Measure each pair."""
    photographs = Setting(images=config.images, crop=config.crop).load_photographs()
    rows: list[Row] = []
    asked = Pairs(targets=config.targets, network=config.network, images=config.images)
    names = ("bundled", *(file.stem for file in config.targets))
    for name, pair in zip(names, pairs(asked), strict=True):
        target, baseline = _filters(pair.target), _filters(pair.baseline)
        far = (target - baseline).norm()
        row: Row = {
            "pair": name,
            "distance": far.item(),
            "relative": (far / baseline.norm()).item(),
        }
        outputs = [restore(model, photographs, MASKS) for model in (pair.target, pair.baseline)]
        for condition in MASKS:
            ends = list(zip(*(own[condition] for own in outputs), strict=True))
            for plane, measured in PLANES.items():
                moved = [output_difference(a, b, measured).mean().item() for a, b in ends]
                row[f"whole_{condition}{plane}_x1000"] = 1000 * sum(moved) / len(moved)
        rows.append(say(row))
        yield {"network": config.network, "crop": config.crop, "rows": rows}


def _filters(model: nn.Module) -> Float[Tensor, "n"]:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() > 1])


if __name__ == "__main__":
    start(Config, run)

"""Tab. 2 over targets that were fine-tuned from one baseline with different seeds.

A folder (`--weights`) holds the pair of one seed, as `paramattr blindsr train --stage target --seed
N` writes it; a file (`--targets`) holds a target that was tuned from the bundled baseline, such as
those of `benchmarks/pairs`. The bundled pair comes first. Each pair's filters are found and masked
anew: mean and standard deviation over the pairs of the output difference, where the 1% lie, and how
far the 1% of two targets are the same filters (chance-corrected overlap).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from benchmarks.benchmark import Row, say, start
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS, PAPER
from blind_sr.mask.experiment import mask_filters
from blind_sr.models.networks import load
from blind_sr.models.outputs import quality, restore
from blind_sr.models.pairs import Pair
from blind_sr.rankings.search import find_filters
from blind_sr.setting import Setting
from paramattr import Scores, agreement

PERCENTS = (1.0, 5.0)
NODES = 8


@dataclass(frozen=True)
class Config:
    weights: tuple[Path, ...] = ()
    targets: tuple[Path, ...] = ()
    network: str = "srresnet"
    images: Path | None = None
    crop: int = 48


def run(config: Config) -> dict[str, Any]:
    """Mask the filters of each pair, and put the pairs together."""
    rows, shown, found = [], [], []
    photographs = Setting(images=config.images, crop=config.crop).load_photographs()
    for number, pair in enumerate(pairs(config)):
        own, masked, ranked = _of_pair(pair, photographs)
        rows += [{**row, "pair": number} for row in masked]
        found.append(ranked)
        shown.append(say({"pair": number, **own}))
    cells = dict.fromkeys((row["mask"], row["pct"], row["method"]) for row in rows)
    return {
        "network": config.network,
        "images": photographs.names,
        "crop": config.crop,
        "pairs": shown,
        "summary": [say(_cell(rows, *cell)) for cell in cells],
        "top1_overlap_between_pairs": say(
            {
                function: _moments(
                    agreement(one[function], other[function], fraction=0.01).overlap
                    for one, other in combinations(found, 2)
                )
                for function in MASKS
            }
        ),
        "rows": rows,
    }


def pairs(config: Config) -> Iterator[Pair]:
    """Load the bundled pair, then every other that is asked for."""
    for folder in (None, *config.weights):
        yield Setting(config.network, folder, config.images, config.crop).load_pair()
    bundled = Setting(config.network, None, config.images, config.crop).load_pair()
    for file in config.targets:
        target = load(config.network, file).eval().requires_grad_(False)
        yield replace(bundled, target=target.to(memory_format=torch.channels_last))


def _of_pair(pair: Pair, photographs: Photographs) -> tuple[Row, list[Row], dict[str, Scores]]:
    rankings = find_filters(pair, photographs, PAPER, n_steps=NODES)
    target = restore(pair.target, photographs)
    masked = mask_filters(pair, photographs, rankings, PERCENTS, target)
    ranked = {function: rankings["faig"][function][0] for function in MASKS}
    depth = {function: scores.top(fraction=0.01).depth() for function, scores in ranked.items()}
    own = {"psnr": quality(target, photographs), "depth": depth}
    return own, [row for row in masked if row["mask"] == row["input"]], ranked


def _cell(rows: list[Row], function: str, pct: float, method: str) -> Row:
    names = {"mask": function, "pct": pct, "method": method}
    own = [row for row in rows if names.items() <= row.items()]
    measures = ("difference_x1000", "difference_blue_x1000")
    return {**names, **{measure: _moments(row[measure] for row in own) for measure in measures}}


def _moments(values: Iterable[float]) -> dict[str, float]:
    several = list(values)
    return {
        "mean": statistics.fmean(several) if several else float("nan"),
        "sd": statistics.stdev(several) if len(several) > 1 else 0.0,
    }


if __name__ == "__main__":
    start(Config, run)

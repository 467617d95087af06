"""Does alignment bring a ranking back? The baseline alone is permuted and rescaled, then aligned.

Every hidden channel of the bundled baseline takes a new place, and a factor whose logarithm is
drawn from a normal distribution. The network does the same, and FAIG's ranking is another. Overlaps
are shares of the top filters that the ranking of the pair as it ships has too.
"""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.benchmark import Row, say, start
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from paramattr import FAIG, Scores, align, contrast
from paramattr.surgery.alignment import channel_spaces, multiply, reorder

NETWORKS = ("srresnet", "srcnn")
SHARES = (0.01, 0.05)


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    crop: int = 32
    nodes: int = 2
    seed: int = 0


def run(config: Config) -> dict[str, Any]:
    """Shuffle and align the baseline of both networks."""
    rows = []
    for network in NETWORKS:
        setting = Setting(network=network, images=config.images, crop=config.crop)
        pair, photographs = setting.load_pair(), setting.load_photographs()
        rows += _of_pair(network, pair, photographs, config)
    return {"rows": rows}


def _of_pair(network: str, pair: Pair, photographs: Photographs, config: Config) -> list[Row]:
    other = shuffled(pair.baseline, config.seed)
    started = time.perf_counter()
    aligned = align(other, pair.target)
    seconds = time.perf_counter() - started
    image = photographs.low["noise"][0]
    with torch.no_grad():
        moved = float((aligned(image) - pair.baseline(image)).abs().max())
    warnings.filterwarnings("ignore", "barrier")
    plain, shuffle, fitted = (
        ranked(replace(pair, baseline=baseline), photographs, config.nodes)
        for baseline in (pair.baseline, other, aligned)
    )
    return [
        say(
            {
                "network": network,
                "function": function,
                "fraction": share,
                "overlap_shuffled": overlap(shuffle[function], plain[function], share),
                "overlap_aligned": overlap(fitted[function], plain[function], share),
                "output_moved": moved,
                "seconds": round(seconds, 1),
            }
        )
        for function in MASKS
        for share in SHARES
    ]


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """Give another form of the same function: channels permuted and rescaled."""
    draw = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for space in channel_spaces(other):
            order = torch.randperm(space.size, generator=draw)
            factors = torch.randn(space.size, generator=draw, dtype=torch.float64).exp()
            sides = ((space.outgoing, "out", factors), (space.incoming, "in", 1 / factors))
            for names, side, own in sides:
                for name in names:
                    reorder(other.get_submodule(name), side, order)
                    multiply(other.get_submodule(name), side, own)
    return other


def ranked(pair: Pair, photographs: Photographs, nodes: int) -> dict[str, Scores]:
    """Rank the filters of each function by FAIG."""
    faig = FAIG(pair.target, pair.baseline)
    loaders = {function: photographs.pairs(function) for function in MASKS}
    scores = faig.score(loaders, reducer="kernel", n_steps=nodes)
    blur, noise = (scores[function] for function in MASKS)
    return dict(zip(MASKS, (contrast(blur, noise), contrast(noise, blur)), strict=True))


def overlap(one: Scores, other: Scores, share: float) -> float:
    """Give the share of the top filters that both have."""
    return one.top(fraction=share).overlap(other.top(fraction=share))


if __name__ == "__main__":
    start(Config, run)

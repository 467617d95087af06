"""How many photographs and nodes it takes until the top 1% of the filters no longer changes.

Nodes: Gauss-Legendre rules on the first COUNT photographs, against 32 nodes. Photographs: random
subsets of all, at 8 nodes, against all of them. Seeds: the same photographs with another draw of
the noise. All are chance-corrected overlaps of the top 1%.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Row, say, start
from blind_sr.labels import MASKS
from blind_sr.setting import Setting
from paramattr import FAIG, Scores, agreement, contrast, stability, subset_means

NODES = (1, 2, 4, 8, 16, 32)
STEPS = 8
Each = dict[str, list[Scores]]
"""Function to the ranking of each photograph."""


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    crop: int = 48
    count: int = 4


def run(config: Config) -> dict[str, Any]:
    """Score once per photograph and rule, then compare the rankings."""
    pair = Setting().load_pair()
    faig = FAIG(pair.target, pair.baseline)
    nodes = {n: _each(faig, config, 0, n, config.count) for n in NODES}
    samples, again = (_each(faig, config, seed, STEPS) for seed in (0, 1))
    rows = [
        say(row)
        for function in MASKS
        for row in _rows(
            function,
            {n: own[function] for n, own in nodes.items()},
            samples[function],
            again[function],
        )
    ]
    return {"steps": STEPS, "rows": rows}


def _each(faig: FAIG, config: Config, seed: int, n_steps: int, count: int | None = None) -> Each:
    setting = Setting(images=config.images, crop=config.crop, seed=seed)
    photographs = setting.load_photographs()
    plain = [
        [
            faig.score([sample], reducer="kernel", n_steps=n_steps)
            for sample in photographs.pairs(condition)[:count]
        ]
        for condition in ("blur", "noise")
    ]
    both = list(zip(*plain, strict=True))
    say({"photographs": len(both), "nodes": n_steps, "seed": seed})
    return {
        "blur": [contrast(blur, noise) for blur, noise in both],
        "noise": [contrast(noise, blur) for blur, noise in both],
    }


def _rows(
    function: str, nodes: dict[int, list[Scores]], samples: list[Scores], again: list[Scores]
) -> Iterator[Row]:
    size, whole = len(samples), _mean(samples)
    sizes = [n for n in (1, 2, 3, 4, 6, 8, 10, 12) if n < size]
    draws = subset_means(samples, sizes, repeats=10)
    found = {
        "nodes": stability({n: _mean(own) for n, own in nodes.items()}),
        "photographs": stability(draws, reference=whole),
        "seeds": stability({"another draw of the noise": _mean(again)}, reference=whole),
    }
    for varied, result in found.items():
        for setting, overlaps in result.overlaps.items():
            yield {
                "function": function,
                "varied": varied,
                "setting": setting,
                "overlap_mean": sum(overlaps) / len(overlaps),
                "overlap_min": min(overlaps),
                "rankings": len(overlaps),
            }
        print(f"{function} {varied}: enough at 95% is {result.enough}")
    halves = agreement(_mean(samples[: size // 2]), _mean(samples[size // 2 :]))
    yield {"function": function, "varied": "halves", **halves._asdict()}


def _mean(several: list[Scores]) -> Scores:
    return subset_means(several, [len(several)])[len(several)][0]


if __name__ == "__main__":
    start(Config, run)

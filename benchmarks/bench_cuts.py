"""Is the look for cut gradients silent where no gradient is cut?

Every pair of `bench_models` is scored, and every photograph of both bundled networks is looked at
by itself, under both conditions, as the first sample of a run is. What speaks of a cut is counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.benchmark import Row, say, start
from benchmarks.model_pairs import PAIRS
from blind_sr.labels import MASKS
from blind_sr.setting import Setting
from paramattr import FAIG

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
SPEAKS = ("incomplete", "cut")


@dataclass(frozen=True)
class Config:
    """What is looked at.

    Attributes:
        images: folder of photographs; those of scikit-image by default.
        crop: side of each photograph's middle.
        seed: seed of the models and data of the pairs.
    """

    images: Path | None = None
    crop: int = 32
    seed: int = 0


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Look at every pair, then at every photograph."""
    rows: list[Row] = []
    for look in (_pairs, _photographs):
        for row in look(config):
            rows.append(say(row))
            yield {"rows": rows, "spoke": sum(one["spoke"] for one in rows)}


def _pairs(config: Config) -> Iterator[Row]:
    for precision, dtype in PRECISIONS.items():
        said: dict[str, str] = {}
        for name in PAIRS:
            torch.manual_seed(config.seed)
            pair = PAIRS[name]()
            faig = FAIG(
                pair.target, pair.baseline, objective=pair.objective, dtype=dtype, **pair.options
            )
            said |= _spoken(name, partial(faig.score, [pair.batch], reducer=pair.unit))
        yield {"what": "pairs", "precision": precision, "looks": len(PAIRS), **_counted(said)}


def _photographs(config: Config) -> Iterator[Row]:
    for network in ("srresnet", "srcnn"):
        setting = Setting(network, images=config.images, crop=config.crop)
        pair, photographs = setting.load_pair(), setting.load_photographs()
        for precision, dtype in PRECISIONS.items():
            said: dict[str, str] = {}
            looks = 0
            for condition in MASKS:
                for number, (inputs, targets) in enumerate(photographs.pairs(condition)):
                    faig = FAIG(pair.target, pair.baseline, dtype=dtype)  # each looks once
                    look = partial(faig.attribute, inputs, targets, n_steps=1)
                    said |= _spoken(f"{condition} {number}", look)
                    looks += 1
            yield {"what": network, "precision": precision, "looks": looks, **_counted(said)}


def _spoken(name: str, call: Callable[[], object]) -> dict[str, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    said = [str(one.message) for one in caught if any(w in str(one.message) for w in SPEAKS)]
    return {name: said[0]} if said else {}


def _counted(said: dict[str, str]) -> Row:
    return {"spoke": len(said), "said": said}


if __name__ == "__main__":
    start(Config, run)

"""How well a small network that is trained on labels predicts the severity of blur and noise.

It is the rival of `bench_severity`, on the same inputs under test, trained for longer or shorter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.benchmark import say, start
from blind_sr.setting import Setting
from blind_sr.severity.inputs import Drawn
from blind_sr.severity.rival import predicted_by, train_on_labels
from paramattr import Curve


@dataclass(frozen=True)
class Config:
    fit: Path | None = None
    test: Path | None = None
    crop: int = 32
    iterations: tuple[float, ...] = (600, 2400)
    kinds: tuple[str, ...] = ("blur", "noise")


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Train, and print the mean absolute error on the inputs under test."""
    fit, test = (
        Setting(images=folder, crop=config.crop).load_photographs()
        for folder in (config.fit, config.test)
    )
    rows = []
    for iterations in config.iterations:
        for kind in config.kinds:
            started = time.perf_counter()
            model = train_on_labels(fit.high, kind, int(iterations), seed=0)
            drawn = Drawn.of(test, kind, seed=1)
            off = predicted_by(model, kind, drawn.photographs.low[kind]) - drawn.severities
            error = Curve((0.0,), off.abs()[None]).at(0.0)
            row = {"kind": kind, "iterations": int(iterations), **error._asdict()}
            rows.append(say({**row, "seconds": round(time.perf_counter() - started, 1)}))
            parameters = sum(p.numel() for p in model.parameters())
            yield {"threads": torch.get_num_threads(), "parameters": parameters, "rows": rows}


if __name__ == "__main__":
    start(Config, run)

"""Mask 1, 3, 5 and 10% of the filters by each method: what `paramattr blindsr mask` measures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.benchmark import say, start
from blind_sr.mask import experiment
from blind_sr.setting import Setting


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    crop: int = 64
    steps: int = 8
    pct: tuple[float, ...] = (1.0, 3.0, 5.0, 10.0)


def run(config: Config) -> dict[str, Any]:
    """Mask the filters, and print the two ratios of each share."""
    setting = Setting(images=config.images, crop=config.crop, steps=config.steps)
    started = time.perf_counter()
    found = experiment.run(experiment.MaskConfig(setting, pct=config.pct))
    for row in found.ratios:
        if row["method"] == "faig":
            say(row)
    return {"seconds": round(time.perf_counter() - started, 1), **found.content}


if __name__ == "__main__":
    start(Config, run)

"""Every method's curve from 0 to 100% of the filters: what `paramattr blindsr compare` measures.

A run that is repeated with the same OUT after a kill resumes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.benchmark import say, start
from blind_sr.compare import experiment, report
from blind_sr.setting import Setting


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    crop: int = 40
    units: str = "kernel"
    methods: str = "all"
    network: str = "srresnet"
    out: Path = Path("compare-output")


def run(config: Config) -> dict[str, Any]:
    """Compare the methods, and print Tab. 2."""
    resumed = (config.out / "running").exists()
    setting = Setting(config.network, images=config.images, crop=config.crop)
    started = time.perf_counter()
    found = experiment.run(
        experiment.CompareConfig(setting, config.methods, config.units, out=config.out)
    )
    report.save(config.out, found)
    seconds = round(time.perf_counter() - started, 1)
    for row in found.rows["rows"]:
        if row["mask"] == row["input"]:
            say(row)
    return {"seconds": seconds, "resumed": resumed, **found.content}


if __name__ == "__main__":
    start(Config, run)

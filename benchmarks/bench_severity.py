"""Predict how severe blur and noise are: what `paramattr blindsr severity` measures.

Filters and response curves on one folder, regressions fitted on a second, errors on a third; one
input per photograph and degradation. The figures go into the folder `--out`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.benchmark import say, start
from blind_sr.setting import Setting
from blind_sr.severity import experiment
from blind_sr.severity.report import save


@dataclass(frozen=True)
class Config:
    find: Path | None = None
    fit: Path | None = None
    test: Path | None = None
    network: str = "srresnet"
    crop: int = 32
    steps: int = 4
    pct: float = 1.0
    limit: int = 0
    draws: int = 1
    levels: int = 5
    label_steps: int = 2000
    out: Path = Path("severity-output")


def run(config: Config) -> dict[str, Any]:
    """Predict, and print the errors."""
    setting = Setting(network=config.network, crop=config.crop, steps=config.steps)
    own = {
        name: getattr(config, name)
        for name in ("find", "fit", "test", "limit", "draws", "pct", "levels", "label_steps", "out")
    }
    started = time.perf_counter()
    found = experiment.run(experiment.SeverityConfig(setting, **own))
    save(config.out, found)
    content = found.content
    for kind, row in content["errors"].items():
        say({"kind": kind, **row})
    return {"seconds": round(time.perf_counter() - started, 1), **content}


if __name__ == "__main__":
    start(Config, run)

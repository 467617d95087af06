"""Any number of degradations, any units: what `paramattr blindsr conditions` measures.

Units of each degradation against the rest, masked beside random ones; with two folders (`--fit`,
`--test`) the confusion matrix too. The figure goes into the folder `--out`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.benchmark import say, start
from blind_sr.conditions import experiment
from blind_sr.conditions.report import save
from blind_sr.setting import Setting


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    network: str = "srresnet"
    weights: Path | None = None
    target: Path | None = None
    conditions: tuple[str, ...] = ("blur", "noise")
    units: tuple[str, ...] = ("kernel",)
    pct: tuple[float, ...] = (1.0, 5.0)
    crop: int = 48
    steps: int = 4
    fit: Path | None = None
    test: Path | None = None
    limit: int = 0
    out: Path = Path("conditions-output")


def run(config: Config) -> dict[str, Any]:
    """Mask and recognise, and print what each mask loses."""
    names = ("conditions", "units", "pct", "target", "fit", "test", "limit", "out")
    setting = Setting(
        network=config.network,
        weights=config.weights,
        images=config.images,
        crop=config.crop,
        steps=config.steps,
    )
    own = {name: getattr(config, name) for name in names}
    started = time.perf_counter()
    found = experiment.run(experiment.ConditionsConfig(setting, **own))
    save(config.out, found)
    content = found.content
    for unit, masked in content["units"].items():
        for row in masked["rows"]:
            if row["method"] == "faig":
                say({"units": unit, **row})
    return {"seconds": round(time.perf_counter() - started, 1), **content}


if __name__ == "__main__":
    start(Config, run)

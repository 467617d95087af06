"""The memory that `FAIG.estimate` expects, against the measured peak of `FAIG.score`.

Each setting runs in two processes of its own, one that estimates and one that scores. The peak is
the process's, with Python, torch and both models.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.benchmark import Row, say, start
from benchmarks.networks import moved, network, samples
from benchmarks.process import apart, field, forget_peak
from paramattr import FAIG

BASE: dict[str, Any] = {
    "kind": "decoder",
    "millions": 30,
    "length": 64,
    "dtype": "float32",
    "reducer": "layer",
    "at_once": 1,
    "partitions": 1,
    "count": 1,
    "nodes": 2,
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"reducer": "output_channel", "at_once": 4, "count": 4},
    {"length": 512},
    {"millions": 60},
    {"millions": 60, "partitions": 4},
    {"millions": 60, "dtype": "bfloat16"},
    {"millions": 124, "dtype": "bfloat16", "partitions": 4, "reducer": "output_channel"},
    {"kind": "convolutions", "millions": 10, "length": 32, "reducer": "kernel"},
    {"kind": "convolutions", "millions": 1, "length": 160, "reducer": "kernel"},
    {"kind": "linear", "millions": 50, "length": 1, "reducer": "scalar"},
)
LARGE: dict[str, Any] = {
    "millions": 514,
    "length": 16,
    "dtype": "bfloat16",
    "partitions": 1,
    "count": 16,
    "nodes": 1,
    "reducer": "output_channel",
}
HERE = "benchmarks.bench_memory"


@dataclass(frozen=True)
class Config:
    large: int = 0
    """1 for the decoder of 514 million parameters alone, which is not estimated, only scored."""


def run(config: Config) -> dict[str, Any]:
    """Run every setting."""
    if config.large:
        setting = {**BASE, **LARGE}
        found = apart(HERE, {**setting, "way": "score"})
        return {"rows": [say({**setting, **found, "peak_in_gib": found["peak"] / 2**30})]}
    return {"rows": [say({**BASE, **one, **_row({**BASE, **one})}) for one in SETTINGS]}


def _row(setting: dict[str, Any]) -> Row:
    expected, found = (apart(HERE, {**setting, "way": way}) for way in ("estimate", "score"))
    return {
        "parameters": found["parameters"],
        "estimated_peak": expected["peak"],
        "measured_peak": found["peak"],
        "estimated_over_measured": expected["peak"] / found["peak"],
        "measured_extra": found["peak"] - found["held"],
        "estimated_extra": expected["extra"],
        "estimate_peak_itself": expected["own"],
        "seconds": found["seconds"],
        "estimate_seconds": expected["seconds"],
    }


def measure(way: str, **setting: Any) -> dict[str, Any]:
    """Run one setting in this process."""
    model, objective, inputs, targets = network(
        setting["kind"], setting["millions"], setting["length"]
    )
    model = model.to(getattr(torch, setting["dtype"]))
    faig = FAIG(model, moved(model), objective=objective)
    data = list(samples(setting["count"], inputs, targets))
    if setting["at_once"] > 1:
        data = [tuple(torch.cat(side) for side in zip(*data, strict=True))]
    options = {
        "reducer": setting["reducer"],
        "internal_batch_size": setting["at_once"],
        "partitions": setting["partitions"],
    }
    forget_peak()  # making the models may have taken more than they hold
    held, started = field("VmRSS"), time.perf_counter()
    found: dict[str, Any] = {"held": held, "parameters": sum(p.numel() for p in model.parameters())}
    if way == "estimate":
        estimate = faig.estimate(data, **options)
        found |= {"peak": estimate.peak, "extra": estimate.extra, "own": field("VmHWM")}
    else:
        faig.score(data, n_steps=setting["nodes"], **options)
        found["peak"] = field("VmHWM")
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}
    return found | seconds


if __name__ == "__main__":
    start(Config, run)

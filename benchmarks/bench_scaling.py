"""How time and peak memory grow with parameters, samples, image size and nodes.

Each setting runs in a process of its own, since peak memory is a process's. Memory is what
`FAIG.score` takes above a bare forward and backward pass of the same model on one sample, over the
bytes of the parameters.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.benchmark import Row, say, start
from benchmarks.process import apart, field
from paramattr import FAIG

DEPTH = 8
BASE = {"millions": 10.0, "samples": 1, "size": 16, "nodes": 4}
VARIED: dict[str, tuple[float, ...]] = {
    "millions": (0.1, 1.0, 10.0, 100.0),
    "samples": (1, 10, 100),
    "size": (8, 16, 32, 64),
    "nodes": (1, 4, 16),
}


@dataclass(frozen=True)
class Config:
    largest: float = 100.0


def run(config: Config) -> dict[str, Any]:
    """Run every setting."""
    settings = [(v, {**BASE, v: value}) for v, values in VARIED.items() for value in values]
    rows = [
        say({"varied": varied, **setting, **_row(setting)})
        for varied, setting in settings
        if setting["millions"] <= config.largest
    ]
    return {"depth": DEPTH, "rows": rows}


def _row(setting: dict[str, float]) -> Row:
    bare, score = (
        apart("benchmarks.bench_scaling", {**setting, "way": way}) for way in ("bare", "score")
    )
    return {
        "parameters": score["parameters"],
        "seconds": score["seconds"],
        "bare_seconds": bare["seconds"],
        "extra_memory_over_parameters": (score["peak"] - bare["peak"]) / (4 * score["parameters"]),
    }


def measure(millions: float, samples: int, size: int, nodes: int, way: str) -> dict[str, Any]:
    """Run one setting in this process: seconds, and the peak of its memory in bytes."""
    torch.manual_seed(0)
    width = max(2, round((millions * 1e6 / DEPTH / 9) ** 0.5))
    layers = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(DEPTH)]
    target = nn.Sequential(*(m for layer in layers for m in (layer, nn.Tanh()))).eval()
    baseline = {n: 0.9 * p.detach() for n, p in target.named_parameters()}
    data = [(torch.rand(1, width, size, size), torch.rand(1, width, size, size))] * samples
    [low, high] = data[0]

    def one_pass() -> None:
        loss = (target(low) - high).square().sum()
        torch.autograd.grad(loss, list(target.parameters()))

    one_pass()
    if way == "score":
        faig = FAIG(target, baseline)
        started = time.perf_counter()
        faig.score(data, reducer="layer", n_steps=nodes)
    else:
        started = time.perf_counter()
        one_pass()
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak": field("VmHWM"),
        "parameters": sum(p.numel() for p in target.parameters()),
    }


if __name__ == "__main__":
    start(Config, run)

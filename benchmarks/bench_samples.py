"""Several samples in one pass against one by one, by size of the model and of the input.

`FAIG.score` on the same samples with `internal_batch_size` 1, 8 and all: a perceptron, a small
convolutional network, and the study's SRResNet.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.benchmark import say, start
from blind_sr.setting import Setting
from paramattr import FAIG

ROUNDS, NODES = 3, 2


@dataclass(frozen=True)
class Config:
    samples: int = 64


def run(config: Config) -> dict[str, Any]:
    """Measure each model at each number of samples."""
    rows = []
    for label, (target, baseline, inputs, targets) in _cases(config.samples).items():
        faig = FAIG(target, baseline)
        seconds = {n: _best(faig, inputs, targets, n) for n in (1, 8, config.samples)}
        row = {
            "model": label,
            "parameters": sum(p.numel() for p in target.parameters()),
            "seconds": seconds,
            "speedup": seconds[1] / min(seconds.values()),
        }
        rows.append(say(row))
    return {"samples": config.samples, "nodes": NODES, "rows": rows}


def _cases(samples: int) -> dict[str, tuple[nn.Module, nn.Module, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)

    def moved(model: nn.Module) -> nn.Module:
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        return other

    with torch.random.fork_rng():
        torch.manual_seed(0)
        perceptron = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
        layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
        convolutions = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)).eval()
    found: dict[str, Any] = {
        "perceptron 64-128-10": (
            perceptron,
            moved(perceptron),
            torch.randn(samples, 64, generator=draw),
            torch.randn(samples, 10, generator=draw),
        )
    }
    for side in (8, 32):
        found[f"three convolutions, {side} x {side}"] = (
            convolutions,
            moved(convolutions),
            *(torch.rand(samples, 3, side, side, generator=draw) for _ in range(2)),
        )
    pair = Setting(crop=32).load_pair()
    for side in (8, 32):
        found[f"SRResNet, {side} x {side}"] = (
            pair.target,
            pair.baseline,
            torch.rand(samples, 3, side, side, generator=draw),
            torch.rand(samples, 3, 2 * side, 2 * side, generator=draw),
        )
    return found


def _best(faig: FAIG, inputs: Tensor, targets: Tensor, at_once: int) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        faig.score([(inputs, targets)], reducer="layer", n_steps=NODES, internal_batch_size=at_once)
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    start(Config, run)

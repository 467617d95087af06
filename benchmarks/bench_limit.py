"""How near the attribution loop comes to what the machine can do.

In one run, alternating: the loop of `FAIG.score` on one photograph; a bare forward and backward
pass of the same model over the same tensors, as often; the network's convolutions alone, forward
and backward, on tensors of the same shapes; and, where the hardware computes in it, the loop in
mixed bfloat16. A profile says what share of the loop's time convolutions take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.benchmark import say, start
from blind_sr.setting import Setting
from blind_sr.training.recipe import fast_precision
from paramattr import FAIG

ROUNDS = 5
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::conv2d")


@dataclass(frozen=True)
class Config:
    network: str = "srresnet"
    crop: int = 64
    nodes: int = 8


def run(config: Config) -> dict[str, Any]:
    """Measure the ways in turn and profile the loop; a row per way."""
    setting, nodes = Setting(config.network, crop=config.crop), config.nodes
    pair, narrow = setting.load_pair(), replace(setting, dtype="bfloat16").load_pair()
    [sample, *_] = setting.load_photographs().pairs("blur")

    def loop(faig: FAIG) -> None:
        faig.score([sample], reducer="kernel", n_steps=nodes)

    ours = partial(loop, FAIG(pair.target, pair.baseline))
    shapes = convolution_shapes(pair.target, sample[0])
    bare, alone = _bare(pair.target, *sample, nodes), _alone(shapes, nodes)
    runs: dict[str, Callable[[], None]] = {"loop": ours, "bare": bare, "convolutions": alone}
    if fast_precision("cpu") == "bfloat16":
        runs["bfloat16"] = partial(loop, FAIG(narrow.target, narrow.baseline, dtype=narrow.mixed))
    ours()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, way in runs.items():
            best[name] = min(best[name], _seconds(way))
    floating = operations(shapes) * nodes
    gflops = {name: floating / seconds / 1e9 for name, seconds in best.items()}
    spent = _profile(ours)
    return {
        **vars(config),
        "seconds": best,
        "gflops": gflops,
        "throughput_over_bare": best["bare"] / best["loop"],
        "share_of_peak": best["convolutions"] / best["loop"],
        "speedup_bfloat16": best["loop"] / best["bfloat16"] if "bfloat16" in best else None,
        "share_in_convolutions": sum(spent.get(name, 0.0) for name in CONVOLUTIONS),
        "profile": say(spent),
        "rows": [say({"way": w, "seconds": best[w], "gflops": gflops[w]}) for w in best],
    }


def _profile(way: Callable[[], None]) -> dict[str, float]:
    """Give the ten operations that take most of the time, and their shares of it."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        way()
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    top = sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]
    return {event.key: event.self_cpu_time_total / total for event in top}


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _bare(model: nn.Module, low: Tensor, high: Tensor, times: int) -> Callable[[], None]:
    def run() -> None:
        model(low)  # the loop looks at the objective once before it begins
        model.requires_grad_(True)
        for _ in range(times):
            loss = (model(low) - high).square().sum()
            torch.autograd.grad(loss, list(model.parameters()))
        model.requires_grad_(False)

    return run


def convolution_shapes(model: nn.Module, low: Tensor) -> list[tuple[nn.Conv2d, Tensor, int]]:
    """Each convolution, an input of its shape, and the operations of its forward pass."""
    found: list[tuple[nn.Conv2d, Tensor, int]] = []

    def see(module: nn.Conv2d, given: tuple[Tensor], output: Tensor) -> None:
        pixels = output.shape[0] * output.shape[2] * output.shape[3]
        found.append((module, given[0].detach(), 2 * pixels * module.weight.numel()))

    hooks = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(low)
    for hook in hooks:
        hook.remove()
    return found


def operations(shapes: list[tuple[nn.Conv2d, Tensor, int]]) -> int:
    """Count a forward and a backward pass; nothing asks for the gradient of the first's input."""
    return sum(3 * forward for *_, forward in shapes) - shapes[0][2]


def _alone(shapes: list[tuple[nn.Conv2d, Tensor, int]], times: int) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for module, given, _ in shapes:  # as the loop looks at the objective once
                module(given)
        for _ in range(times):
            for number, (module, given, _) in enumerate(shapes):
                weight = module.weight.detach().requires_grad_()
                inputs = given.detach().requires_grad_(number > 0)
                wanted = (inputs, weight) if number else (weight,)
                output = module._conv_forward(inputs, weight, module.bias)
                torch.autograd.grad(output, wanted, torch.ones_like(output))

    return run


if __name__ == "__main__":
    start(Config, run)

"""How near the attribution loop comes to what the machine can do.

    python -m benchmarks.bench_limit [--network N] [--crop N] [--nodes N] [--name NAME]

In one run, alternating: the loop of `FAIG.score` on one photograph; a bare forward and backward
pass of the same model over the same tensors, as often; the network's convolutions alone, forward
and backward, on tensors of the same shapes; and, where the hardware computes in it, the loop in
mixed bfloat16. A profile says what share of the loop's time convolutions take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.environment import write_result
from blind_sr.study import load_pair, load_photographs
from blind_sr.training import fast_precision
from paramattr import FAIG

ROUNDS = 5
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::conv2d")


def main(arguments: list[str] | None = None) -> None:
    """Measure the three in turn, profile the loop, print and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--name", default="limit")
    options = parser.parse_args(arguments)
    pair = load_pair(options.network, crop=options.crop)
    [sample, *_] = load_photographs(None, crop=options.crop).pairs("blur")
    faig, nodes = FAIG(pair.target, pair.baseline), options.nodes
    narrow = load_pair(options.network, dtype=torch.bfloat16, crop=options.crop)
    in_half = FAIG(narrow.target, narrow.baseline, dtype=narrow.mixed)

    def loop(faig: FAIG = faig) -> None:
        faig.score([sample], reducer="kernel", n_steps=nodes)

    shapes = convolution_shapes(pair.target, sample[0])
    bare, alone = _bare(pair.target, *sample, nodes), _alone(shapes, nodes)
    floating = operations(shapes) * nodes
    runs: dict[str, Callable[[], None]] = {"loop": loop, "bare": bare, "convolutions": alone}
    if fast_precision("cpu") == "bfloat16":
        runs["bfloat16"] = partial(loop, in_half)
    best = dict.fromkeys(runs, float("inf"))
    loop()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            best[name] = min(best[name], _seconds(run))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        loop()
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    top = sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]
    spent = {event.key: event.self_cpu_time_total / total for event in top}
    result = {
        "network": options.network,
        "crop": options.crop,
        "nodes": nodes,
        "seconds": best,
        "gflops": {name: floating / seconds / 1e9 for name, seconds in best.items()},
        "throughput_over_bare": best["bare"] / best["loop"],
        "share_of_peak": best["convolutions"] / best["loop"],
        "speedup_bfloat16": best["loop"] / best["bfloat16"] if "bfloat16" in best else None,
        "share_in_convolutions": sum(spent.get(name, 0.0) for name in CONVOLUTIONS),
        "profile": spent,
    }
    for name, share in spent.items():
        print(f"{100 * share:6.2f}%  {name}")
    for name in ("throughput_over_bare", "share_of_peak", "share_in_convolutions"):
        print(f"{name}: {result[name]:.3f}")
    print(f"speedup_bfloat16: {result['speedup_bfloat16']}")
    command = (
        f"python -m benchmarks.bench_limit --network {options.network} --crop {options.crop} "
        f"--nodes {nodes}"
    )
    print(write_result(options.name, command, result))


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
    main()

"""The attribution loop on an accelerator: time a node, and the share of the card's own peak.

    python -m benchmarks.bench_gpu [--network N] [--crop N] [--nodes N] [--name NAME]

The peak is that of large matrix products in the same precision, measured in the same run. Without
an accelerator it is a dry run on the CPU, and its result says so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.bench_limit import convolution_shapes
from benchmarks.environment import write_result
from blind_sr.study import load_pair, load_photographs
from paramattr import FAIG

ROUNDS = 3


def main(arguments: list[str] | None = None) -> None:
    """Measure each precision, print a line each, keep all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--name", default="gpu")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print("no accelerator: a dry run on the CPU")
    pair = load_pair(options.network, crop=options.crop)
    [sample, *_] = load_photographs(None, crop=options.crop).pairs("blur")
    operations = (
        3 * options.nodes * sum(count for *_, count in convolution_shapes(pair.target, sample[0]))
    )
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        faig = FAIG(pair.target, pair.baseline, device=device, dtype=dtype)
        seconds = _best(
            lambda faig=faig: faig.score([sample], reducer="kernel", n_steps=options.nodes), device
        )
        peak = _peak(device, dtype)
        rows.append(
            {
                "dtype": str(dtype).removeprefix("torch."),
                "seconds_a_node": seconds / options.nodes,
                "tflops": operations / seconds / 1e12,
                "peak_tflops": peak / 1e12,
                "share_of_peak": operations / seconds / peak,
            }
        )
        print(
            f"{rows[-1]['dtype']:>9}: {1e3 * rows[-1]['seconds_a_node']:.2f} ms a node, "
            f"{rows[-1]['tflops']:.3f} of {rows[-1]['peak_tflops']:.3f} TFLOP/s"
        )
    command = (
        f"python -m benchmarks.bench_gpu --network {options.network} --crop {options.crop} "
        f"--nodes {options.nodes}"
    )
    result = {"device": device, "dry_run": device == "cpu", "crop": options.crop, "rows": rows}
    print(write_result(options.name, command, result))


def _best(run: Callable[[], object], device: str) -> float:
    run()
    found = []
    for _ in range(ROUNDS):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        found.append(time.perf_counter() - started)
    return min(found)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(device: str, dtype: torch.dtype) -> float:
    side = 8192 if device == "cuda" else 512
    one = torch.rand(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _best(lambda: one @ one, device)


if __name__ == "__main__":
    main()

"""The attribution loop on an accelerator: time a node, and the share of the card's own peak.

    python -m benchmarks.bench_gpu [--network N] [--crop N] [--nodes N] [--name NAME]

The peak is that of large matrix products in the same precision, measured in the same run. Without
an accelerator it is a dry run on the CPU, where TF32 is float32, and its result says so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.bench_limit import convolution_shapes, operations
from benchmarks.environment import write_result
from blind_sr.study import load_pair, load_photographs
from paramattr import FAIG

ROUNDS = 3
PRECISIONS = (
    ("float32", torch.float32, "highest"),
    ("tf32", torch.float32, "high"),
    ("bfloat16", torch.bfloat16, "highest"),
)


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
    work = operations(convolution_shapes(pair.target, sample[0]))
    rows = []
    for name, dtype, precision in PRECISIONS:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision == "high"
        faig = FAIG(pair.target, pair.baseline, device=device, dtype=dtype)

        def seconds(nodes: int, faig: FAIG = faig) -> float:
            return _best(lambda: faig.score([sample], reducer="kernel", n_steps=nodes), device)

        # Twice as many nodes against once: what a call does but once drops out.
        a_node = (seconds(2 * options.nodes) - seconds(options.nodes)) / options.nodes
        reached, peak = work / a_node, _peak(device, dtype)
        rows.append(
            {
                "precision": name,
                "seconds_a_node": a_node,
                "tflops": reached / 1e12,
                "peak_tflops": peak / 1e12,
                "share_of_peak": reached / peak,
            }
        )
        print(
            f"{name:>9}: {1e3 * a_node:.2f} ms a node, {reached / 1e12:.3f} of "
            f"{peak / 1e12:.3f} TFLOP/s"
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

"""The attribution loop on an accelerator: time a node, and the share of the card's own peak.

    python -m benchmarks.bench_gpu [--network N] [--nodes N] [--name NAME]

One sample after the other, the same compiled (CUDA graphs), and several samples at once, each in
three precisions, on samples of noise of two sizes; and both rankings of the bundled photographs
against the published procedure, on the same card. The peak is that of large matrix products in the
same precision, measured in the same run. A profile of the first loop says how much of its time goes
into moving samples to the card. Without an accelerator it is a dry run on the CPU, where TF32 is
float32 and nothing is compiled, and its result says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench_attribution import contrasted, mean_overlap
from benchmarks.bench_limit import convolution_shapes, operations
from benchmarks.environment import write_result
from benchmarks.published_procedure import published_procedure
from blind_sr.networks import SCALE
from blind_sr.study import MASKS, Pair, Photographs, load_pair, load_photographs
from paramattr import FAIG, Scores
from paramattr.quadrature import gauss_legendre
from paramattr.units.index import UnitIndex

ROUNDS = 3
PRECISIONS = (
    ("float32", torch.float32, "highest"),
    ("tf32", torch.float32, "high"),
    ("bfloat16", torch.bfloat16, "highest"),
)
CONVERGED = 48
"""Nodes of the ranking, in float32, that the others are compared with."""


def main(arguments: list[str] | None = None) -> None:
    """Measure each way in each precision, print a line each, keep all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--name", default="gpu")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    if device == "cpu":
        print("no accelerator: a dry run on the CPU")
    pair = load_pair(options.network, device=device)
    # Side of the low-resolution samples, how many at once, compiled or not.
    ways = [(64, 1, False), (64, 1, True), (64, 16, False), (256, 1, False), (256, 1, True)]
    if device == "cpu":
        ways = [(32, 1, False), (32, 4, False)]
    command = f"python -m benchmarks.bench_gpu --network {options.network} --nodes {options.nodes}"
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "device": device,
        "dry_run": device == "cpu",
        "network": options.network,
        "nodes": options.nodes,
        "share_of_transfers": None,
        "rows": rows,
        "rankings": [],
    }
    for name, dtype, precision in PRECISIONS:
        _set(precision)
        peak = _peak(device, dtype)
        for side, at_once, compiled in ways:
            torch.compiler.reset()
            samples = _samples(side, at_once)
            faig = FAIG(pair.target, pair.baseline, device=device, dtype=dtype, compile=compiled)
            own: dict[str, Any] = {"reducer": "kernel", "internal_batch_size": at_once}

            def score(nodes: int, faig: Any = faig, own: Any = own, batch: Any = samples) -> Any:
                return faig.score([batch], n_steps=nodes, **own)

            # Twice as many nodes against once: what a call does but once drops out.
            once, twice = (
                _median(partial(score, nodes), device)
                for nodes in (options.nodes, 2 * options.nodes)
            )
            a_node = (twice - once) / options.nodes / at_once
            work = operations(convolution_shapes(pair.target, samples[0][:1].to(device)))
            row = {
                "precision": name,
                "side": side,
                "at_once": at_once,
                "compiled": compiled,
                "seconds_a_node_and_sample": a_node,
                "tflops": work / a_node / 1e12,
                "peak_tflops": peak / 1e12,
                "share_of_peak": work / a_node / peak,
            }
            rows.append(row)
            print(
                f"{name:>9}, {side}x{side}, {at_once:>2} at once{', compiled' * compiled}: "
                f"{1e3 * a_node:.3f} ms a node and sample, {row['tflops']:.2f} of "
                f"{row['peak_tflops']:.1f} TFLOP/s ({row['share_of_peak']:.1%})",
                flush=True,
            )
            if device == "cuda" and len(rows) == 1:
                share = _share_of_transfers(partial(score, options.nodes))
                result["share_of_transfers"] = share
                print(f"moving samples to the card: {share:.2%} of the time", flush=True)
            path = write_result(options.name, command, result)  # a run that is cut keeps its rows
    if device == "cuda":
        result["rankings"] = _rankings(pair, options.nodes)
        path = write_result(options.name, command, result)
    print(path)


def _rankings(pair: Pair, nodes: int) -> list[dict[str, Any]]:
    """Time both rankings of the bundled photographs, the published procedure's first.

    What is compiled is so before its time is taken.
    """
    photographs = load_photographs(None, device="cuda")
    index = UnitIndex.of(pair.target, "kernel")
    _set("highest")
    converged = _ranked(FAIG(pair.target, pair.baseline), photographs, CONVERGED)
    published_procedure(pair, photographs.only(0), gauss_legendre(1))  # warm
    found = published_procedure(pair, photographs)
    ranked = {f: Scores(index, values.cpu()) for f, values in found.scores.items()}
    setting = "published, 100 left points, float32"
    overlap = mean_overlap(ranked, converged)
    rows: list[dict[str, Any]] = [
        {"setting": setting, "seconds": found.seconds, "top1_overlap": overlap}
    ]
    every = len(photographs.high)
    ways = [(precision, 1, False) for precision in PRECISIONS]
    ways += [(PRECISIONS[1], every, False), (PRECISIONS[1], 1, True)]
    for (name, dtype, precision), at_once, compiled in ways:
        _set(precision)
        faig = FAIG(pair.target, pair.baseline, dtype=dtype, compile=compiled)
        rank = partial(_ranked, faig, photographs, nodes, at_once)
        seconds, overlap = _median(rank, "cuda"), mean_overlap(rank(), converged)
        how = "compiled" if compiled else f"{at_once} at once"
        setting = f"paramattr, {nodes} Gauss nodes, {name}, {how}"
        rows.append({"setting": setting, "seconds": seconds, "top1_overlap": overlap})
    for row in rows:
        row["speedup"] = rows[0]["seconds"] / row["seconds"]
        print(
            f"{row['setting']}: {row['seconds']:.2f} s, overlap {row['top1_overlap']:.4f}, "
            f"{row['speedup']:.1f}x",
            flush=True,
        )
    return rows


def _ranked(
    faig: FAIG, photographs: Photographs, nodes: int, at_once: int = 1
) -> dict[str, Scores]:
    plain = {}
    for mask in MASKS:
        batch = torch.cat(photographs.low[mask]), torch.cat(photographs.high)
        own: dict[str, Any] = {"n_steps": nodes, "internal_batch_size": at_once}
        plain[mask] = faig.score([batch], reducer="kernel", **own)
    return contrasted(plain)


def _samples(side: int, count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    low, high = (torch.rand(count, 3, size, size, generator=draw) for size in (side, SCALE * side))
    return low, high


def _set(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"


def _share_of_transfers(run: Callable[[], object]) -> float:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        started = time.perf_counter()
        run()
        _wait("cuda")
        seconds = time.perf_counter() - started
    copied = [e for e in profiled.key_averages() if "Memcpy HtoD" in e.key]
    return sum(event.device_time_total for event in copied) / 1e6 / seconds


def _median(run: Callable[[], object], device: str) -> float:
    for _ in range(2):  # compiles, and records the graphs
        run()
    found = []
    for _ in range(ROUNDS):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(device: str, dtype: torch.dtype) -> float:
    side = 8192 if device == "cuda" else 512
    one = torch.rand(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _median(lambda: one @ one, device)


if __name__ == "__main__":
    main()

"""The attribution loop on an accelerator: time a node, and the share of the card's own peak.

One sample after the other, the same compiled (CUDA graphs), and several samples at once, each in
three precisions, on samples of noise of two sizes; and both rankings of the bundled photographs
against the published procedure, on the same card. The peak is that of large matrix products in the
same precision, measured in the same run. A profile of the first loop says how much of its time goes
into moving samples to the card. Without an accelerator it is a dry run on the CPU, where TF32 is
float32 and nothing is compiled, and its result says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench_attribution import contrasted, mean_overlap
from benchmarks.bench_limit import convolution_shapes, operations
from benchmarks.benchmark import Row, say, start
from benchmarks.published_procedure import published_procedure
from blind_sr.data.degradations import SCALE
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from paramattr import FAIG, Scores, UnitIndex
from paramattr.quadrature import gauss_legendre

ROUNDS = 3
PRECISIONS = (
    ("float32", torch.float32, "highest"),
    ("tf32", torch.float32, "high"),
    ("bfloat16", torch.bfloat16, "highest"),
)
CONVERGED = 48
"""Nodes of the ranking, in float32, that the others are compared with."""
WAYS = {
    "cuda": ((64, 1, False), (64, 1, True), (64, 16, False), (256, 1, False), (256, 1, True)),
    "cpu": ((32, 1, False), (32, 4, False)),
}
"""Side of the low-resolution samples, how many at once, compiled or not."""


@dataclass(frozen=True)
class Config:
    network: str = "srresnet"
    nodes: int = 8


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Measure each way in each precision; give what is found so far after each of them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    if device == "cpu":
        print("no accelerator: a dry run on the CPU")
    pair = Setting(config.network, device=device).load_pair()
    rows: list[Row] = []
    result: dict[str, Any] = {
        "device": device,
        "dry_run": device == "cpu",
        **vars(config),
        "share_of_transfers": None,
        "rows": rows,
        "rankings": [],
    }
    for name, dtype, precision in PRECISIONS:
        _set(precision)
        peak = _peak(device, dtype)
        for side, at_once, compiled in WAYS[device]:
            torch.compiler.reset()
            samples = _samples(side, at_once)
            faig = FAIG(pair.target, pair.baseline, device=device, dtype=dtype, compile=compiled)
            score = partial(_score, faig, samples, at_once)
            work = operations(convolution_shapes(pair.target, samples[0][:1].to(device)))
            way = {"precision": name, "side": side, "at_once": at_once, "compiled": compiled}
            rows.append(say({**way, **_row(score, config.nodes, device, at_once, work, peak)}))
            if device == "cuda" and len(rows) == 1:
                share = _share_of_transfers(partial(score, config.nodes))
                result["share_of_transfers"] = share
            yield result
    if device == "cuda":
        result["rankings"] = _rankings(pair, config.nodes)
        yield result


def _score(faig: FAIG, samples: tuple[Tensor, Tensor], at_once: int, nodes: int) -> Scores:
    own: dict[str, Any] = {"n_steps": nodes, "internal_batch_size": at_once}
    return faig.score([samples], reducer="kernel", **own)


def _row(
    score: Callable[[int], Scores], nodes: int, device: str, at_once: int, work: int, peak: float
) -> Row:
    # Twice as many nodes against once: what a call does but once drops out.
    once, twice = (_median(partial(score, n), device) for n in (nodes, 2 * nodes))
    a_node = (twice - once) / nodes / at_once
    return {
        "seconds_a_node_and_sample": a_node,
        "tflops": work / a_node / 1e12,
        "peak_tflops": peak / 1e12,
        "share_of_peak": work / a_node / peak,
    }


def _rankings(pair: Pair, nodes: int) -> list[Row]:
    """Time both rankings of the bundled photographs, the published procedure's first.

    What is compiled is so before its time is taken.
    """
    photographs = Setting(device="cuda").load_photographs()
    index = UnitIndex.of(pair.target, "kernel")
    _set("highest")
    converged = _ranked(FAIG(pair.target, pair.baseline), photographs, CONVERGED)
    published_procedure(pair, photographs.only(0), gauss_legendre(1))  # warm
    found = published_procedure(pair, photographs)
    ranked = {f: Scores(index, values.cpu()) for f, values in found.scores.items()}
    overlap = mean_overlap(ranked, converged)

    def row(setting: str, seconds: float, overlap: float) -> Row:
        speedup = found.seconds / seconds
        own = {"setting": setting, "seconds": seconds, "top1_overlap": overlap}
        return say({**own, "speedup": speedup})

    rows = [row("published, 100 left points, float32", found.seconds, overlap)]
    every = len(photographs.high)
    ways = [(precision, 1, False) for precision in PRECISIONS]
    ways += [(PRECISIONS[1], every, False), (PRECISIONS[1], 1, True)]
    for (name, dtype, precision), at_once, compiled in ways:
        _set(precision)
        faig = FAIG(pair.target, pair.baseline, dtype=dtype, compile=compiled)
        rank = partial(_ranked, faig, photographs, nodes, at_once)
        how = "compiled" if compiled else f"{at_once} at once"
        setting = f"paramattr, {nodes} Gauss nodes, {name}, {how}"
        rows.append(row(setting, _median(rank, "cuda"), mean_overlap(rank(), converged)))
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
    start(Config, run)

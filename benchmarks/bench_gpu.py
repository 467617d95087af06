"""The attribution loop on an accelerator: the share of a bare loop's pace, and of the card's peak.

Both networks on samples of noise of two sizes, and GPT-2's shape on sequences of tokens: one sample
after the other, the same compiled (CUDA graphs), and several samples at once, each in three
precisions. The bare loop runs the target forward and backward in the same precision, as many
samples at once. The peak is that of large matrix products in the same precision, measured in the
same run. Half precision is mixed (autocast) in both loops. At last both rankings of the bundled
photographs against the published procedure, on the same card. A profile of the first loop says how
much of its time goes into moving samples to the card. Without an accelerator it is a dry run on the
CPU with small shapes, where times are CPU seconds, TF32 is float32 and nothing is compiled, and its
result says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_attribution import contrasted, mean_overlap
from benchmarks.benchmark import Row, say, start
from benchmarks.gpu_cases import CASES, Case, Way
from benchmarks.published_procedure import published_procedure
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from paramattr import FAIG, Scores, UnitIndex
from paramattr.quadrature import gauss_legendre

Precision = tuple[str, torch.dtype, str]
ROUNDS = 3
PRECISIONS: tuple[Precision, ...] = (
    ("float32", torch.float32, "highest"),
    ("tf32", torch.float32, "high"),
    ("bfloat16", torch.bfloat16, "highest"),
)
CONVERGED = 48
"""Nodes of the ranking, in float32, that the others are compared with."""


@dataclass(frozen=True)
class Config:
    cases: tuple[str, ...] = tuple(CASES)
    nodes: int = 8


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Measure each way in each precision; give what is found so far after each of them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    if device == "cpu":
        print("no accelerator: a dry run on the CPU")
    rows: list[Row] = []
    result: dict[str, Any] = {
        "device": device,
        "dry_run": device == "cpu",
        **vars(config),
        "share_of_transfers": None,
        "rows": rows,
        "rankings": [],
    }
    for name in config.cases:
        case = CASES[name](device)
        for way in case.ways:
            for precision in PRECISIONS:
                rows.append(say({"case": name, **_row(case, way, precision, config.nodes, device)}))
                if device == "cuda" and len(rows) == 1:
                    loop = partial(_score, case, _faig(case, way, precision), way, config.nodes)
                    result["share_of_transfers"] = _share_of_transfers(loop)
                yield result
    if device == "cuda":
        result["rankings"] = _rankings(Setting(device=device).load_pair(), config.nodes)
        yield result


def _faig(case: Case, way: Way, precision: Precision) -> FAIG:
    return FAIG(
        case.target,
        case.baseline,
        objective=case.objective,
        device=next(case.target.parameters()).device,
        dtype=None if precision[1] is torch.float32 else precision[1],
        compile=way.compiled,
    )


def _score(case: Case, faig: FAIG, way: Way, nodes: int) -> None:
    own: dict[str, Any] = {"n_steps": nodes, "internal_batch_size": way.at_once}
    faig.score([case.samples(way)], reducer=case.units, **own)


def _bare(case: Case, way: Way, dtype: torch.dtype, gradients: int) -> None:
    """Run forward and backward, as many samples at once, without anything else."""
    parameters = list(case.target.parameters())
    device = parameters[0].device
    inputs, targets = (part.to(device) for part in case.samples(way))
    half = dtype is not torch.float32
    for _ in range(gradients):
        with torch.autocast(device.type, dtype) if half else nullcontext():
            output = case.target(inputs)
        torch.autograd.grad(case.objective(output, targets).sum(), parameters)


def _row(case: Case, way: Way, precision: Precision, nodes: int, device: str) -> Row:
    name, dtype, products = precision
    _set(products)
    torch.compiler.reset()
    peak = _peak(device, dtype)
    case.target.requires_grad_(True)
    bare_loop = partial(_bare, case, way, dtype)
    with FlopCounterMode(display=False) as counter:
        bare_loop(1)
    # Twice as many nodes against once: what a call does but once drops out.
    score = partial(_score, case, _faig(case, way, precision), way)
    ours, bare = (
        (_median(partial(loop, 2 * nodes), device) - _median(partial(loop, nodes), device))
        / nodes
        / way.at_once
        for loop in (score, bare_loop)
    )
    work = counter.get_total_flops() / way.at_once
    return {
        **way._asdict(),
        "precision": name,
        "seconds_a_node_and_sample": ours,
        "bare_seconds": bare,
        "share_of_bare": bare / ours,
        "tflops": work / ours / 1e12,
        "peak_tflops": peak / 1e12,
        "share_of_peak": work / ours / peak,
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
    clock = time.perf_counter if device == "cuda" else time.process_time
    found = []
    for _ in range(ROUNDS):
        _wait(device)
        started = clock()
        run()
        _wait(device)
        found.append(clock() - started)
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

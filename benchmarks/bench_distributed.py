"""Samples over 1, 2 and 4 processes (gloo, a thread each): the difference from one, and the time.

Every method that looks at data is run on even shares, uneven ones and, on 4 ranks, on fewer samples
than ranks. Then different shuffles are given, which must be refused. Beside the seconds stand those
of the processor that the busiest rank took, which do not depend on what else the machine does.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.benchmark import Row, say, start
from benchmarks.launching import answer, launch
from benchmarks.networks import moved, network, samples
from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    ParamattrError,
    Scores,
    compare,
    fisher_times_change,
    gradient_times_change,
    substitution_effect,
)
from paramattr.methods.captum import captum_scores

SIDE = 16
COUNTS = {"even": 12, "uneven": 7, "fewer samples than ranks": 3}
TIMED = 24
APART = "from benchmarks.bench_distributed import rank_main; rank_main()"


@dataclass(frozen=True)
class Config:
    ranks: tuple[str, ...] = ("1", "2", "4")
    """Numbers of processes."""


def run(config: Config) -> dict[str, Any]:
    """Run every method on one process, then on each number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        alone = launch(1, Path(folder) / "1", APART)[0]
        rows = []
        for ranks in map(int, config.ranks):
            of_ranks = [alone] if ranks == 1 else launch(ranks, Path(folder) / str(ranks), APART)
            rows += [say(row) for row in _rows(ranks, of_ranks, alone)]
    return {"side": SIDE, "timed_samples": TIMED, "rows": rows}


def _rows(ranks: int, of_ranks: list[dict[str, Any]], alone: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, counts in alone["found"].items():
        for count, expected in counts.items():
            wanted = torch.tensor(expected, dtype=torch.float64)
            scale = float(wanted.abs().max())
            found = [
                torch.tensor(own["found"][name][count], dtype=torch.float64) for own in of_ranks
            ]
            apart = max(float((own - wanted).abs().max()) for own in found) / scale
            rows.append(
                {"ranks": ranks, "method": name, "samples": count, "largest_difference": apart}
            )
    row: Row = {"ranks": ranks}
    for kind in ("seconds", "cpu_seconds"):
        row[kind] = max(own[kind] for own in of_ranks)
        row[f"{kind}_of_one_over"] = alone[kind] / row[kind]
    rows.append(row)
    if ranks > 1:
        said = [own["refused"] for own in of_ranks]
        rows.append({"ranks": ranks, "shuffles": "different", "refused_on": said.count(True)})
    return rows


def _pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    model = network("convolutions", 0.05, SIDE)[0]
    return model, moved(model, 0.2)


def _data(count: int) -> list[Any]:
    _, _, inputs, targets = network("convolutions", 0.05, SIDE)
    return list(samples(count, inputs, targets))


def _scored(scores: Scores) -> list[float]:
    known = (scores.values, scores.signed, scores.standard_error)
    return torch.cat([value.nan_to_num(0.0) for value in known]).tolist()


def _methods(distributed: bool) -> dict[str, Callable[[int], list[float]]]:
    target, baseline = _pair()
    layers = [name for name, module in target.named_modules() if hasattr(module, "weight")]

    def comparison(count: int) -> list[float]:
        data = _data(count)

        def measure(model: torch.nn.Module) -> torch.Tensor:
            return torch.cat([(model(x) - y).square().flatten(1).sum(1) for x, y in data])

        ranking = FAIG(target, baseline).score(_data(2), reducer="layer", n_steps=2)
        found = compare(
            target,
            baseline,
            {"faig": ranking},
            {"fit": measure},
            fractions=(0, 0.2, 1),
            distributed=distributed,
        )
        return torch.cat([curve.values.flatten() for curve in found.curves.values()]).tolist()

    def input_path(count: int) -> list[float]:
        data = [(x, torch.zeros_like(x)) for x, _ in _data(count)]
        method = InputPathIntegratedGradients(target)
        return _scored(method.score(data, reducer="kernel", n_steps=3, distributed=distributed))

    def profile(count: int) -> list[float]:
        found = FAIG(target, baseline).path_profile(_data(count), 5, distributed=distributed)
        return found.values.tolist()

    return {
        "FAIG": lambda n: _scored(
            FAIG(target, baseline).score(
                _data(n), reducer="kernel", n_steps=4, distributed=distributed
            )
        ),
        "FAIG, adaptive": lambda n: _scored(
            FAIG(target, baseline).score(
                _data(n), reducer="kernel", method="adaptive", distributed=distributed
            )
        ),
        "gradient times change": lambda n: _scored(
            gradient_times_change(target, baseline, _data(n), distributed=distributed)
        ),
        "Fisher times change": lambda n: _scored(
            fisher_times_change(target, baseline, _data(n), distributed=distributed)
        ),
        "input path": input_path,
        "substitution effect": lambda n: _scored(
            substitution_effect(target, baseline, _data(n), "layer", distributed=distributed)
        ),
        "Captum's gradient times activation": lambda n: _scored(
            captum_scores(
                "layer-gradient-x-activation", target, layers, _data(n), distributed=distributed
            )
        ),
        "path profile": profile,
        "compare": comparison,
    }


def rank_main() -> None:
    """Run everything on one rank, and write what it found."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed = int(os.environ["WORLD_SIZE"]) > 1
    if distributed:
        dist.init_process_group("gloo")
    methods = _methods(distributed)
    found = {
        name: {kind: method(count) for kind, count in COUNTS.items()}
        for name, method in methods.items()
    }
    target, baseline = _pair()
    data, faig = _data(TIMED), FAIG(target, baseline)
    faig.score(data[:4], reducer="kernel", distributed=distributed)
    started, busy = time.perf_counter(), time.process_time()
    faig.score(data, reducer="kernel", n_steps=16, distributed=distributed)
    seconds, refused = time.perf_counter() - started, False
    cpu_seconds = time.process_time() - busy
    if distributed:
        order = torch.randperm(TIMED, generator=torch.Generator().manual_seed(dist.get_rank()))
        try:
            faig.score([data[n] for n in order.tolist()], reducer="kernel", distributed=True)
        except ParamattrError as error:
            refused = "differs" in str(error) or "failed" in str(error)
    answer({"found": found, "seconds": seconds, "cpu_seconds": cpu_seconds, "refused": refused})
    if distributed:
        dist.destroy_process_group()


if __name__ == "__main__":
    start(Config, run)

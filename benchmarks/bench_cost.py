"""Seconds per gradient of `FAIG.score`, against a cost model with two constants.

    seconds = nodes * samples * (6 * parameters * tokens / rate + bytes of parameters / speed)

Operations are those of a forward and a backward pass; every gradient also goes over the parameters'
memory some times (the path's point, the gradients, their sums). The rate and the speed are fitted
to the two smallest networks, and the larger ones predicted. Times are those of the processor, on
one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.benchmark import Row, say, start
from benchmarks.networks import SHAPES, VOCABULARY, moved, network, samples
from paramattr import FAIG

LENGTHS = (8, 64)
NODES = 2
APART = """import json, sys
from benchmarks.bench_cost import measure
print(json.dumps(measure(*map(int, sys.argv[1:]))))"""


@dataclass(frozen=True)
class Config:
    largest: float = 514.0


def run(config: Config) -> dict[str, Any]:
    """Measure every size, fit the two constants on the smallest two, and predict the others."""
    sizes = [millions for millions in SHAPES if millions <= config.largest]
    rows = [say(_apart(millions, length)) for millions in sizes for length in LENGTHS]
    fitted = [row for row in rows if row["millions"] in sizes[:2]]
    shares = torch.tensor([_work(row) for row in fitted], dtype=torch.float64)
    seconds = torch.tensor([row["seconds_per_gradient"] for row in fitted], dtype=torch.float64)
    weights = shares / seconds[:, None]  # relative errors
    [per_operation, per_byte] = (
        torch.linalg.lstsq(weights, torch.ones(len(fitted), 1, dtype=torch.float64))
        .solution.flatten()
        .tolist()
    )
    for row in rows:
        operations, size = _work(row)
        row["predicted"] = operations * per_operation + size * per_byte
        row["predicted_over_measured"] = row["predicted"] / row["seconds_per_gradient"]
        row["fitted"] = row in fitted
        say({key: row[key] for key in ("millions", "length", "predicted_over_measured")})
    return {
        "nodes": NODES,
        "operations_per_second": 1 / per_operation,
        "parameter_bytes_per_second": 1 / per_byte,
        "rows": rows,
    }


def _work(row: Row) -> tuple[float, float]:
    """Give the operations of a gradient, and the bytes of the parameters."""
    return 6.0 * row["parameters"] * row["length"], 4.0 * row["parameters"]


def measure(millions: int, length: int) -> Row:
    """Measure one size in this process."""
    torch.set_num_threads(1)
    model, objective, inputs, targets = network("decoder", millions, length)
    faig = FAIG(model, moved(model), objective=objective)
    data = list(samples(2, inputs, targets))

    def scored(count: int) -> float:
        started = time.process_time()
        faig.score(data[:count], reducer="output_channel", n_steps=NODES)
        return time.process_time() - started

    scored(1)
    # What every call does once, such as looking at the first sample, is in both and goes.
    times = sorted((scored(2) - scored(1)) / NODES for _ in range(3 if millions < 100 else 1))
    return {
        "millions": millions,
        "vocabulary": VOCABULARY,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "length": length,
        "seconds_per_gradient": times[len(times) // 2],
    }


def _apart(millions: int, length: int) -> Row:
    words = [sys.executable, "-c", APART, str(millions), str(length)]
    ran = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    found: Row = json.loads(ran.stdout)
    return found


if __name__ == "__main__":
    start(Config, run)

"""Seconds per gradient and peak of `FAIG.score`, against a cost model.

    seconds = 6 * parameters * tokens / rate + bytes of parameters / speed
    peak = bytes before + 4 * bytes of parameters + bytes of the embedding + 8 MiB

Operations are those of a forward and a backward pass; every gradient also goes over the parameters'
memory some times (the path's point, the gradients, their sums). The rate and the speed are fitted
to the two smallest networks, and the larger ones predicted. Nothing is fitted for the peak: two
models, one point of the path, one sum of the gradients, the gradient of the embedding, which is
the head too, and the gradients that wait. Times are those of the processor, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.benchmark import Row, say, start
from benchmarks.networks import HEAD, SHAPES, VOCABULARY, Decoder, moved, network, samples
from benchmarks.process import apart, field, forget_peak
from paramattr import FAIG, next_token_cross_entropy
from paramattr.integration.integrals.fixed import WAITING
from paramattr.runtime.memory import held

LENGTHS = (8, 64)
NODES = 2


@dataclass(frozen=True)
class Config:
    largest: float = 514.0
    rounds: int = 3
    """Of networks below 100 million parameters; the larger ones are measured once."""


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Measure every size, fit the two constants on the smallest two, and predict the others."""
    sizes = [millions for millions in SHAPES if millions <= config.largest]
    rows: list[Row] = []
    for millions in sizes:
        rounds = config.rounds if millions < 100 else 1
        own = {"millions": millions, "rounds": rounds}
        each = ({**own, "length": length} for length in LENGTHS)
        rows.extend(say(apart("benchmarks.bench_cost", setting)) for setting in each)
        if len(rows) >= 2 * len(LENGTHS):
            yield _compared(rows, 2 * len(LENGTHS))


def _compared(rows: list[Row], fitted: int) -> dict[str, Any]:
    """Fit the constants to the first rows, and write what they predict into all."""
    shares = torch.tensor([_work(row) for row in rows[:fitted]], dtype=torch.float64)
    seconds = [row["seconds_per_gradient"] for row in rows[:fitted]]
    weights = shares / torch.tensor(seconds, dtype=torch.float64)[:, None]  # relative errors
    ones = torch.ones(fitted, 1, dtype=torch.float64)
    per_operation, per_byte = torch.linalg.lstsq(weights, ones).solution.flatten().tolist()
    for number, row in enumerate(rows):
        operations, size = _work(row)
        row["predicted"] = operations * per_operation + size * per_byte
        row["predicted_over_measured"] = row["predicted"] / row["seconds_per_gradient"]
        row["fitted"] = number < fitted
        row["predicted_peak"] = row["before"] + 4 * size + row["embedding"] + WAITING
        row["predicted_over_measured_peak"] = row["predicted_peak"] / row["peak"]
    tested = rows[fitted:]
    return {
        "nodes": NODES,
        "operations_per_second": 1 / per_operation,
        "parameter_bytes_per_second": 1 / per_byte,
        "largest_error_of_seconds": _largest(tested, "predicted_over_measured"),
        "largest_error_of_peak": _largest(rows, "predicted_over_measured_peak"),
        "rows": rows,
    }


def _largest(rows: list[Row], key: str) -> float:
    return max((abs(row[key] - 1) for row in rows), default=0.0)


def _work(row: Row) -> tuple[float, float]:
    """Give the operations of a gradient, and the bytes of the parameters."""
    return 6.0 * row["parameters"] * row["length"], 4.0 * row["parameters"]


def measure(millions: int, length: int, rounds: int) -> Row:
    """Measure one size in this process."""
    torch.set_num_threads(1)
    tiny, tokens = Decoder(HEAD, 1, VOCABULARY).eval(), torch.ones(1, length, dtype=torch.int64)
    first = FAIG(tiny, moved(tiny), objective=next_token_cross_entropy)
    first.score([(tokens, tokens)], reducer="output_channel")  # loads what is loaded once
    del tiny, first
    held(torch.device("cpu"))  # gives back what is free
    before = field("VmRSS")
    model: Any
    model, objective, inputs, targets = network("decoder", millions, length)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Room for one point and one sum, at every size: small models would hold more of them.
    faig = FAIG(model, moved(model), objective=objective, memory=2 * 4 * parameters)
    data = list(samples(2, inputs, targets))

    def scored(count: int) -> float:
        started = time.process_time()
        faig.score(data[:count], reducer="output_channel", n_steps=NODES)
        return time.process_time() - started

    forget_peak()
    scored(1)
    # What every call does once, such as looking at the first sample, is in both and goes.
    times = sorted((scored(2) - scored(1)) / NODES for _ in range(rounds))
    return {
        "millions": millions,
        "vocabulary": VOCABULARY,
        "parameters": parameters,
        "embedding": model.embedding.weight.nbytes,
        "length": length,
        "seconds_per_gradient": times[len(times) // 2],
        "before": before,
        "peak": field("VmHWM"),
    }


if __name__ == "__main__":
    start(Config, run)

"""Whether `until` stops where it says: what it reports, against photographs it did not see.

The photographs come in another order in every draw. `Settling`, which `score(until=...)` asks, is
given their scores one by one, as `score` gives them; where it stops, the ranking of the photographs
so far is compared with that of all the others. Those are few and err too, so what is measured lies
below the agreement with the population that is reported; `expected` is the same estimate for as
many others. Chance-corrected overlaps of the top 1% of each function's contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_middle import overlap
from benchmarks.benchmark import Row, say, start
from benchmarks.budget_cases import CASES, Source
from benchmarks.score_tables import score_table
from paramattr.integration.accumulation import Reduced
from paramattr.scoring.until import GROUPS, Settling
from paramattr.units.agreement import population_agreement

SHARE = 0.01


@dataclass(frozen=True)
class Config:
    network: str = "srresnet"
    images: Path | None = None
    crop: int = 64
    dtype: str = "float32"
    way: str = "gauss 4"
    until: float = 0.9
    draws: int = 5
    scratch: Path | None = None


def run(config: Config) -> dict[str, Any]:
    """Stop in every draw; a row per draw and function."""
    source = Source(config.images, config.crop, config.dtype, 0, config.scratch)
    samples = CASES[config.network](config.network, source).samples
    tables = {
        condition: score_table(samples, config.way, condition, config.scratch).double()
        for condition in samples.loaders
    }
    rows = [say(row) for draw in range(config.draws) for row in _rows(tables, config.until, draw)]
    return {
        "network": config.network,
        "crop": config.crop,
        "way": config.way,
        "until": config.until,
        "photographs": len(next(iter(tables.values()))),
        "summary": [say(_summary(rows, function)) for function in tables],
        "rows": rows,
    }


def _rows(tables: dict[str, Tensor], until: float, draw: int) -> Iterator[Row]:
    size, units = next(iter(tables.values())).shape
    order = torch.randperm(size, generator=torch.Generator().manual_seed(draw)).tolist()
    settling, used = Settling(until, SHARE, None), 0
    settling.begin(list(tables), {"kernel": units})
    while used < size and not settling.is_settled:
        for condition, table in tables.items():
            own = table[order[used]]
            settling.add(condition, {"kernel": Reduced(own, own)})
            settling.look()
        used += 1
    seen, unseen = order[:used], order[used:]
    for function, own in tables.items():
        contrast = own - sum(table for name, table in tables.items() if name != function)
        row: Row = {"draw": draw, "function": function, "photographs": used}
        row["reported"] = settling.agreements[function]["kernel"]
        if unseen:
            means = torch.stack([contrast[seen[group::GROUPS]].mean(0) for group in range(GROUPS)])
            others = len(unseen) / used
            row["expected"] = population_agreement(means, fraction=SHARE, others=others)
            row["measured"] = overlap(contrast[seen].mean(0), contrast[unseen].mean(0), SHARE)
        yield row


def _summary(rows: list[Row], function: str) -> Row:
    own = [row for row in rows if row["function"] == function and "measured" in row]
    means = {key: fmean(row[key] for row in own) for key in ("reported", "expected", "measured")}
    return {
        "function": function,
        "draws": len(own),
        **means,
        "expected_minus_measured": means["expected"] - means["measured"],
        "largest_difference": max(abs(row["expected"] - row["measured"]) for row in own),
    }


if __name__ == "__main__":
    start(Config, run)

"""SIGKILL at random moments of a run, and what the next start makes of it.

An unbroken run comes first. Then each kill hits a fresh run at a random moment of its duration, and
the same run is started again: it must end in the same files, bit for bit, and none may be corrupt
after the kill. With `--ranks 2` the samples are shared by two processes of torchrun, and every
other kill hits one rank alone.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import killing
from benchmarks.benchmark import say, start


@dataclass(frozen=True)
class Config:
    kills: int = 60
    batches: int = 16
    side: int = 16
    ranks: int = 1
    seed: int = 0


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Kill and resume; a row per kill."""
    torch.set_num_threads(1)
    draw, rows, missed = random.Random(config.seed), list[dict[str, Any]](), 0
    sizes = (config.batches, config.side, config.ranks)
    with tempfile.TemporaryDirectory() as made:
        whole = Path(made) / "whole"
        seconds = _finished(whole, sizes)
        expected = killing.contents(whole)
        while len(rows) < config.kills:
            folder = Path(made) / f"killed-{len(rows)}-{missed}"
            process = killing.start(folder, *sizes)
            after = draw.uniform(0, seconds)
            if killing.ended(process, time.monotonic() + after) is not None:
                missed += 1  # it was faster than the unbroken run
                continue
            rank = len(rows) // 2 % config.ranks if config.ranks > 1 and len(rows) % 2 else None
            killing.kill(process, folder, rank)
            row = {
                "after": round(after, 3),
                "rank": rank,
                "files": len(list(folder.glob("[!.]*"))),
                "batches_kept": killing.batches_kept(folder),
                "corrupt": killing.corrupt(folder),
            }
            resumed = _finished(folder, sizes)
            found = killing.contents(folder)
            differing = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
            rows.append(say({**row, "resumed_in": round(resumed, 3), "differing": differing}))
            yield _result(config, rows, seconds, missed, len(expected))


def _result(
    config: Config, rows: list[dict[str, Any]], seconds: float, missed: int, files: int
) -> dict[str, Any]:
    return {
        **vars(config),
        "kills": len(rows),
        "seconds": seconds,
        "missed": missed,
        "equal": sum(not row["differing"] for row in rows),
        "corrupt": sum(len(row["corrupt"]) for row in rows),
        "in_the_middle": sum(0 < row["batches_kept"] < 2 * config.batches for row in rows),
        "files": files,
        "rows": rows,
    }


def _finished(folder: Path, sizes: tuple[int, int, int]) -> float:
    started = time.monotonic()
    code = killing.ended(killing.start(folder, *sizes), started + killing.PATIENCE)
    if code != 0:
        raise RuntimeError(f"the run in {folder.name} ended with {code}")
    return time.monotonic() - started


if __name__ == "__main__":
    start(Config, run)

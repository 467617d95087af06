"""Hostile files, and what each call makes of them: the outcome, the message, the memory.

Each call runs in a process of its own, twice: on a good file and on the attacked one. An attack is
well met if it is refused by one clear error that names the file, nothing is left behind, and no
more than twice the memory of the good call is taken; a right file that is merely large is read.
Nothing but the output may be written, no more than twice the good call's, and no control character
may be printed.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.benchmark import say, start
from benchmarks.hostile import (
    images,
    linked_folders,
    material,
    model_folders,
    own_files,
    tensor_files,
    texts,
)
from benchmarks.hostile.attack import Attack
from benchmarks.hostile.calls import CALLS
from benchmarks.hostile.trial import Trial, tried

ATTACKS: list[Attack] = [
    *tensor_files.ATTACKS,
    *own_files.ATTACKS,
    *model_folders.ATTACKS,
    *linked_folders.ATTACKS,
    *texts.ATTACKS,
    *images.ATTACKS,
]
SLACK = 24
"""MiB that two like calls may differ by: modules and pages come and go."""


@dataclass(frozen=True)
class Config:
    only: tuple[str, ...] = ()


def run(config: Config) -> dict[str, Any]:
    """Try every attack; a row each."""
    torch.set_num_threads(1)
    rows, good_calls = [], dict[Any, Trial]()
    with tempfile.TemporaryDirectory() as made:
        good = material.write(Path(made) / "good")
        for number, attack in enumerate(ATTACKS):
            if config.only and not any(word in attack.words for word in config.only):
                continue
            call, places = CALLS[attack.call], Path(made) / str(number)
            key = (attack.call, attack.twin)
            if key not in good_calls:
                twin = attack.prepare(good, places / "good", attack.twin)
                good_calls[key] = tried(call, twin)
            attacked = attack.prepare(good, places / "attacked", attack.change)
            rows.append(say(row(attack, good_calls[key], tried(call, attacked), attacked)))
    return {
        "attacks": len(rows),
        "met": sum(row["met"] for row in rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "slack_mib": SLACK,
        "rows": rows,
    }


def row(attack: Attack, good: Trial, found: Trial, folder: Path) -> dict[str, Any]:
    """Say how an attack ended beside the good call, and whether that is well."""
    message = found.message.replace(str(folder), "DIR")
    made = good.left if attack.outcome == "read" else ()
    left = [name for name in found.left if name not in made and not _is_output(name, attack)]
    return {
        "call": attack.call,
        "file": attack.file,
        "attack": attack.name,
        "outcome": found.outcome,
        "message": message if len(message) <= 400 else f"{message[:397]}...",
        "mib": round(found.mib, 1),
        "good_mib": round(good.mib, 1),
        "seconds": round(found.seconds, 2),
        "left": left,
        "met": (
            found.outcome == attack.outcome
            and (attack.outcome != "refused" or attack.must_say in message)
            and not left
            and not found.steers
            and found.written <= 2 * good.written
            and found.mib <= 2 * good.mib + SLACK
            and good.outcome == "read"
            and len(message) < 2000
        ),
    }


def _is_output(name: str, attack: Attack) -> bool:
    return attack.outcome == "read" and name.startswith("out/")


if __name__ == "__main__":
    start(Config, run)

"""A run of a few seconds that keeps its progress, and what a SIGKILL makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr import FAIG, Scores, Selection, compare
from paramattr.files.reading import load_tensors
from paramattr.files.writing import write_whole

PATIENCE = 300
"""Seconds after which a run counts as hung."""
LOSSES = "loss"


def network(seed: int) -> nn.Module:
    """Give a small convolutional network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(24, 3, 3, padding=1)).eval()


def batches(condition: int, count: int, side: int) -> list[tuple[Tensor, Tensor]]:
    """Give a condition's batches of two samples."""
    draw = torch.Generator().manual_seed(condition)
    shape = (2, 3, side, side)
    return [
        (torch.rand(shape, generator=draw), torch.rand(shape, generator=draw)) for _ in range(count)
    ]


def work(folder: Path, count: int, side: int, ranks: int = 1) -> None:
    """Score two conditions, compare the ranking with random ones, and write all of it.

    Args:
        folder: where everything is kept; a call that is repeated resumes.
        count: batches of each condition.
        side: of their pictures.
        ranks: how many processes share the samples; this one is one of them.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that two untrained networks have a barrier between them
    shared: dict[str, Any] = {"distributed": True} if ranks > 1 else {}
    target, baseline = network(0), network(1)
    loaders = {name: batches(n, count, side) for n, name in enumerate(("one", "two"))}
    found = FAIG(target, baseline).score(
        loaders,
        reducer=["kernel", "output_channel"],
        n_steps=4,
        checkpoint=folder / "progress.safetensors",
        **shared,
    )

    def loss(model: nn.Module) -> Tensor:
        return torch.cat([(model(x) - y).square().flatten(1).sum(1) for x, y in loaders["one"]])

    compared = compare(
        target,
        baseline,
        {"found": found["one"]["kernel"]},
        {LOSSES: loss},
        fractions=[n / 10 for n in range(11)],
        checkpoint=folder / "curves.safetensors",
        **shared,
    )
    if int(os.environ.get("RANK", "0")):
        return
    for condition, own in found.items():
        for units, scores in own.items():
            scores.save(folder / f"scores-{units}-{condition}.safetensors")
            scores.top(fraction=0.1).save(folder / f"selection-{units}-{condition}.safetensors")
    write_whole(folder / "rows.json", json.dumps(compared.rows(), indent=1))


def start(folder: Path, count: int, side: int, ranks: int) -> int:
    """Start the run in a process of its own, and give its number.

    One process is a fork of this one, which has imported everything: a kill hits the work. Several
    are started by torchrun, whose number is given.
    """
    folder.mkdir(exist_ok=True)
    if ranks > 1:
        launcher = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
        words = ["-m", "benchmarks.killing", str(folder), str(count), str(side), str(ranks)]
        with (folder.parent / "torchrun.log").open("ab") as log:
            command = [sys.executable, "-m", *launcher, *words]
            return subprocess.Popen(command, stdout=log, stderr=log).pid
    child = os.fork()
    if not child:
        try:
            work(folder, count, side)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def ended(process: int, until: float) -> int | None:
    """Wait until a time for a process; its exit code, or None if it still runs."""
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def kill(process: int, folder: Path, rank: int | None) -> None:
    """Send SIGKILL to a run, or to one rank of it, and wait until all of it is gone."""
    numbers = sorted(folder.glob("rank-*.pid" if rank is None else f"rank-{rank}.pid"))
    victims = [int(own.read_text()) for own in numbers]
    for victim in [process, *victims] if rank is None or not victims else victims:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(victim, signal.SIGKILL)
    if ended(process, time.monotonic() + PATIENCE) is None:
        raise TimeoutError(f"the other ranks still run {PATIENCE} s after one was killed")


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of a finished run."""
    files = (path for path in folder.iterdir() if path.suffix != ".pid")
    return {path.name: path.read_bytes() for path in files}


def corrupt(folder: Path) -> list[str]:
    """Name the files that cannot be read; what a killed write left under its own name aside."""
    found = []
    for path in folder.glob("[!.]*"):
        reader = _READERS.get(path.name.split("-")[0], load_tensors)
        try:
            reader(path)
        except ValueError:
            found.append(path.name)
    return found


def batches_kept(folder: Path) -> int:
    """Count the batches of both conditions that a run's progress holds."""
    file = folder / "progress.safetensors"
    if not file.exists():
        return 0
    return sum(note["batches"] for note in load_tensors(file)[1]["notes"].values())


_READERS: dict[str, Callable[[Path], object]] = {
    "scores": Scores.load,
    "selection": Selection.load,
    "rank": Path.read_text,
    "rows.json": lambda path: json.loads(path.read_text()),
}


def main(words: list[str]) -> None:
    """Be one rank of a run: the folder, batches, side and ranks are given."""
    folder, count, side, ranks = Path(words[0]), *map(int, words[1:])
    torch.distributed.init_process_group("gloo")
    write_whole(folder / f"rank-{os.environ['RANK']}.pid", str(os.getpid()))
    work(folder, count, side, ranks)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])

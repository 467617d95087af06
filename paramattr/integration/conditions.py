"""A condition's samples on their way, and what they came to so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from paramattr.integration.sums import RunningSums
from paramattr.resume import Unfinished


@dataclass
class Condition:
    """One data loader on its way through the model, and what it came to so far.

    Attributes:
        loader: any iterable of batches.
        sums: name of a set of units to its sums.
        held: batches that an earlier run already added, the last of them in part at least.
        held_samples: samples that it added.
        data: digest of those batches.
        finished: batches that are added, the last in part at least.
        drawn: batches that were drawn from the loader in this run.
        given: samples that were given to the workers or already added.
    """

    loader: Iterable[Any]
    sums: dict[str, RunningSums]
    held: int = 0
    held_samples: int = 0
    data: str = ""
    finished: int = 0
    drawn: int = 0
    given: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def state(self, name: str) -> dict[str, Tensor]:
        """Give the tensors of its sums, under its name."""
        return {
            f"of {name}/{units}/{key}": tensor
            for units, sums in self.sums.items()
            for key, tensor in sums.state().items()
        }

    def resume(self, name: str, file: Unfinished) -> None:
        """Go back to a state that a file held.

        Raises:
            CheckpointError: if it holds no such state.
        """
        like = self.state(name)
        file.check({key: t for key, t in file.tensors.items() if key in like}, like)
        note = file.notes.get(name)
        batches, samples, data = _counted(note, file)
        self.held = self.finished = batches
        self.held_samples = self.given = samples
        self.data = data
        for units, sums in self.sums.items():
            sums.resume(under(f"of {name}/{units}/", file.tensors))
            if sums.samples != samples:
                raise file.broken(f"{sums.samples} samples of {name!r} are added, not {samples}")

    def note(self) -> dict[str, Any]:
        """Say what the sums hold."""
        samples = next(iter(self.sums.values())).samples
        return {"batches": self.finished, "samples": samples, "data": self.data}


def under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors whose names begin so, without that beginning."""
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


def _counted(note: Any, file: Unfinished) -> tuple[int, int, str]:
    match note:
        case {"batches": int(batches), "samples": int(samples), "data": str(data)}:
            if min(batches, samples) >= 0:
                return batches, samples, data
    raise file.broken("it does not say how many batches and samples it holds")

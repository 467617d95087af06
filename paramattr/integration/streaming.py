"""Stream data loaders into scores: one pass, any number of conditions and of sets of units."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from paramattr.errors import CheckpointError
from paramattr.integration.batches import Batch, no_batch
from paramattr.integration.sums import RunningSums, Sample
from paramattr.resume import Unfinished
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.workers import in_order
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores

Work = Callable[[Batch], Iterator[Sample]]
"""A batch to its samples, one by one: each sample's attributions reduced to every set of units."""


@dataclass
class Condition:
    """One data loader on its way through the model, and what it came to so far.

    Attributes:
        loader: any iterable of batches.
        sums: name of a set of units to its sums.
        held: batches that an earlier run already added.
        data: digest of those batches.
    """

    loader: Iterable[Any]
    sums: dict[str, RunningSums]
    held: int = 0
    data: str = ""
    finished: int = 0
    drawn: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def state(self, name: str) -> dict[str, Tensor]:
        """Give the tensors of its sums, under its name."""
        return {
            f"{name}/{units}/{key}": tensor
            for units, sums in self.sums.items()
            for key, tensor in sums.state().items()
        }

    def resume(self, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Go back to a state that a file held."""
        self.held = self.finished = note["batches"]
        self.data = note["data"]
        for units, sums in self.sums.items():
            start = f"{name}/{units}/"
            found = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            sums.resume(found)


class _Part(NamedTuple):
    """Where a part of a batch belongs; the last part of a batch carries the data read so far."""

    condition: str
    share: float
    digest: str | None


def stream(
    work: Sequence[Work],
    loaders: Mapping[str, Iterable[Any]],
    indexes: Mapping[str, UnitIndex],
    *,
    read: Callable[[Any], Batch],
    check: Callable[[str, Batch], Batch] = lambda condition, batch: batch,
    watch: Callable[[str, Sample], object] = lambda condition, sample: None,
    at_once: int = 1,
    checkpoint: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> dict[str, dict[str, Scores]]:
    """Average over samples what each unit gets, for each condition.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} |A_i(x)|

    Each worker holds one sample's attributions at a time; the samples are added in their order. The
    conditions take turns, batch by batch.

    Args:
        work: gives samples their attributions; one for each worker (see `paramattr.runtime`).
        loaders: name of a condition to its batches.
        indexes: name of a set of units to the units.
        read: what a loader gives to a batch.
        check: a condition and each of its batches before the work, to the batch that is worked on.
        watch: called with a condition and each of its samples after the work, in their order.
        at_once: most samples of a batch that a worker is given together.
        checkpoint: a file that holds the running sums after each batch. Where it exists, the
            batches that it already holds are passed over.
        settings: what the checkpoint must have been made with, of the kinds JSON knows.
        show_progress: draw a bar on stderr.

    Returns:
        Condition, then set of units, to scores.

    Raises:
        DataError: if a loader gives no sample, or something that is no batch.
        CheckpointError: if the checkpoint was made with other settings or data.
    """
    conditions = {
        name: Condition(loader, {units: RunningSums(index) for units, index in indexes.items()})
        for name, loader in loaders.items()
    }
    file = _resumed(conditions, indexes, checkpoint, settings or {})
    waiting: deque[_Part] = deque()

    def tasks() -> Iterator[Batch]:
        for name, batch in _in_turns(conditions, read, checkpoint, advance):
            one = conditions[name]
            for part in check(name, batch).chunks(at_once):
                is_last = part.first + len(part) == len(batch)
                digest = one.digest.hexdigest() if is_last else None
                waiting.append(_Part(name, len(part) / len(batch), digest))
                yield part

    total = _lengths(loaders.values())
    with (
        progress_bar("attributing", total, show=show_progress) as advance,
        closing(in_order(lambda each, part: list(each(part)), work, tasks())) as results,
    ):
        for samples in results:
            part = waiting.popleft()
            one = conditions[part.condition]
            for sample in samples:
                for units, sums in one.sums.items():
                    sums.add(sample.reduced[units])
                watch(part.condition, sample)
            advance(part.share)
            if part.digest is not None:
                one.finished, one.data = one.finished + 1, part.digest
                _save(file, conditions)
    for one in conditions.values():
        if one.drawn < one.held:
            raise CheckpointError(
                f"checkpoint {checkpoint} holds {one.held} batches and the loader gave {one.drawn}:"
                " expected the same loader; give another file, or remove this one"
            )
        if not one.finished:
            raise no_batch(one.loader)
    return {
        name: {units: sums.scores() for units, sums in one.sums.items()}
        for name, one in conditions.items()
    }


def _in_turns(
    conditions: Mapping[str, Condition],
    read: Callable[[Any], Batch],
    checkpoint: str | Path | None,
    advance: Callable[[float], None],
) -> Iterator[tuple[str, Batch]]:
    """Draw batches from the conditions in turns, and pass over those that are already added."""
    reading = {name: iter(one.loader) for name, one in conditions.items()}
    while reading:
        for name in list(reading):
            one = conditions[name]
            for item in reading[name]:
                one.drawn += 1
                if checkpoint is not None or one.drawn > one.held:
                    batch = read(item)
                if checkpoint is not None:
                    batch.feed(one.digest.update)
                if one.drawn > one.held:
                    yield name, batch
                    break
                if one.drawn == one.held and one.digest.hexdigest() != one.data:
                    raise CheckpointError(
                        f"checkpoint {checkpoint} was made with other data: expected a loader that "
                        "gives the same batches in the same order; give another file for another "
                        "loader, or remove this one"
                    )
                advance(1)
            else:
                del reading[name]


def _resumed(
    conditions: Mapping[str, Condition],
    indexes: Mapping[str, UnitIndex],
    checkpoint: str | Path | None,
    settings: Mapping[str, Any],
) -> Unfinished:
    stamp: dict[str, Any] = {}
    if checkpoint is not None:
        units = {name: index.fingerprint() for name, index in indexes.items()}
        stamp = {"kind": "running sums", "units": units, "conditions": list(conditions), **settings}
    file = Unfinished(checkpoint, stamp)
    for name, one in conditions.items():
        if name in file.notes:
            one.resume(name, file.tensors, file.notes[name])
    return file


def _save(file: Unfinished, conditions: Mapping[str, Condition]) -> None:
    if file.path is None:
        return
    tensors: dict[str, Tensor] = {}
    for name, one in conditions.items():
        tensors |= one.state(name)
    notes = {name: {"batches": one.finished, "data": one.data} for name, one in conditions.items()}
    file.save(tensors, notes)


def _lengths(loaders: Iterable[Iterable[Any]]) -> float | None:
    try:
        return float(sum(len(loader) for loader in loaders))  # type: ignore
    except TypeError:
        return None

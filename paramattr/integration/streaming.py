"""Stream a data loader into `Scores`: the mean over samples of the magnitude in each unit."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError, DataError
from paramattr.integration.batches import Batch
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.workers import in_order
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores

Attributions = Callable[[Batch], Iterator[Mapping[str, Tensor]]]
"""A batch to its samples' attributions, one by one."""


def mean_magnitude(
    attributions: Sequence[Attributions],
    loader: Iterable[Any],
    index: UnitIndex,
    *,
    device: torch.device,
    at_once: int = 1,
    check: Callable[[Batch], object] | None = None,
    checkpoint: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> Scores:
    """Average over samples the sum of absolute attributions in each unit.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} |A_i(x)|

    The absolute value and the sum over the unit come before the mean: the two do not commute.
    Each worker holds one sample's attributions at a time; the samples are added in their order.

    Args:
        attributions: gives samples their attributions; one for each worker (see
            `paramattr.runtime.workers`).
        loader: `(inputs, targets)` batches, or tensors alone.
        index: the units.
        device: where the batches are moved.
        at_once: most samples of a batch that a worker is given together.
        check: called with each batch before its work.
        checkpoint: a file that holds the running sums after each batch. Where it exists, the
            batches that it already holds are passed over.
        settings: what the checkpoint must have been made with, of the kinds JSON knows.
        show_progress: draw a bar on stderr.

    Returns:
        Scores of all units.

    Raises:
        DataError: if the loader gives no sample, or something that is no batch.
        CheckpointError: if the checkpoint was made with other settings or data.
    """
    expected: dict[str, Any] = {}
    if checkpoint is not None:
        expected = {"kind": "running sums", "units": index.fingerprint(), **dict(settings or {})}
    sums, samples, held, data = _resumed(checkpoint, len(index), expected)
    finished, digest = held, hashlib.sha256()
    drawn, ends = 0, deque[tuple[int, str | None]]()  # of each part: see below
    batches: float | None = None
    with suppress(TypeError):
        batches = len(loader)  # type: ignore[arg-type]

    def parts() -> Iterator[Batch]:
        nonlocal drawn
        for drawn, item in enumerate(loader, 1):
            batch = Batch.from_loader(item, device=device)
            if checkpoint is not None:
                batch.feed(digest.update)
            if drawn <= held:
                if drawn == held and digest.hexdigest() != data:
                    raise CheckpointError(
                        f"checkpoint {checkpoint} was made with other data: expected a loader "
                        "that gives the same batches in the same order; give another file for "
                        "another loader, or remove this one"
                    )
                advance(1)
                continue
            if check is not None:
                check(batch)
            for part in batch.chunks(at_once):  # the last one carries the data read so far
                is_last = part.first + len(part) == len(batch)
                ends.append((len(batch), digest.hexdigest() if is_last else None))
                yield part

    def reduce(found: Mapping[str, Tensor]) -> Tensor:
        return index.reduce({name: value.abs() for name, value in found.items()}).cpu()

    def reduced(attributions: Attributions, part: Batch) -> list[Tensor]:
        # Nothing here holds one sample's attributions while the next one's are made.
        return list(map(reduce, attributions(part)))

    with (
        progress_bar("attributing", batches, show=show_progress) as advance,
        closing(in_order(reduced, attributions, parts())) as results,
    ):
        for found in results:
            for magnitudes in found:
                sums += magnitudes
            samples += len(found)
            size, read = ends.popleft()
            advance(len(found) / size)
            if read is None:
                continue
            finished += 1
            if checkpoint is not None:
                state = {"sums": sums, "counts": torch.tensor([samples, finished])}
                save_state_dict(checkpoint, state, {**expected, "data": read})
    if drawn < held:
        raise CheckpointError(
            f"checkpoint {checkpoint} holds {held} batches and the loader gave {drawn}: "
            "expected the same loader; give another file, or remove this one"
        )
    if not samples:
        raise DataError("the loader gave no batch: expected at least one (inputs, targets)")
    return Scores(index, sums / samples)


def _resumed(
    checkpoint: str | Path | None, units: int, expected: dict[str, Any]
) -> tuple[Tensor, int, int, str]:
    if checkpoint is None or not Path(checkpoint).exists():
        sums = torch.zeros(units, dtype=torch.float64)
        if checkpoint is not None:  # an unwritable place shows before the work
            empty = {"sums": sums, "counts": torch.tensor([0, 0])}
            save_state_dict(checkpoint, empty, {**expected, "data": ""})
        return sums, 0, 0, ""
    tensors, found = load_tensors(checkpoint)
    differing = [key for key in expected if found.get(key) != expected[key]]
    if differing:
        raise CheckpointError(
            f"checkpoint {checkpoint} was made with other settings ({', '.join(differing)} "
            "differ): give another file, or remove this one"
        )
    samples, finished = (int(count) for count in tensors["counts"])
    return tensors["sums"], samples, finished, found["data"]

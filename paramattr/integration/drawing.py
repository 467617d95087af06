"""Drawing batches from a loader: where it fails, the error names the batch and the sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, SequentialSampler

from paramattr.errors import DataError, ParamattrError, one_line


def drawn(loader: Iterable[Any], name: str = "") -> Iterator[Any]:
    """Draw every batch of a loader.

    Args:
        loader: any iterable of batches.
        name: of its condition, for the error.

    Raises:
        DataError: if a `DataLoader`, or a worker of it, raises: with the number of the batch, and
            where the data set is read in order, of the sample. Its own error is the cause. What any
            other iterable raises passes through.
    """
    of = f" of {name!r}" if name else ""
    finished = 0
    try:
        for item in loader:
            yield item
            finished += 1
    except (ParamattrError, GeneratorExit):
        raise
    except Exception as error:
        if not isinstance(loader, DataLoader):
            raise
        sample = _failing(loader, finished)
        where = f"batch {finished + 1}{of}" if sample is None else f"sample {sample[0]}{of}"
        reason = _reason(error) if sample is None else sample[1]
        raise DataError(
            f"the loader failed at {where} ({reason}): expected a batch; repair that sample or "
            "leave it out"
        ) from error


def _failing(loader: DataLoader[Any], finished: int) -> tuple[int, str] | None:
    """Find the sample that fails, where the loader reads a data set in order."""
    if loader.batch_size is None or not isinstance(loader.sampler, SequentialSampler):
        return None
    # Workers read ahead, and what one of them raises comes in its batch's turn.
    first = finished * loader.batch_size
    for number in range(first, min(first + loader.batch_size, len(loader.dataset))):  # type: ignore[arg-type]
        try:
            loader.dataset[number]
        except Exception as error:  # noqa: PERF203 (one batch)
            return number, _reason(error)
    return None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Caught ") and " worker " in lines[0]:
        return lines[-1][:200]  # of the worker's own traceback
    return f"{type(error).__name__}: {one_line(error)}"

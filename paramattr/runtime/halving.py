"""A device that runs out of memory: fewer samples go through the model at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch

from paramattr.errors import ParamattrError, one_line, warn

Result = TypeVar("Result")
_most: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_SAID = ("out of memory", "can't allocate memory", "cannot allocate memory")


class Divisible(Sized, Protocol):
    """Samples that can be taken apart."""

    def part(self, start: int, size: int) -> Any:
        """Cut out `size` samples, or as many as are left."""
        ...


def in_parts(
    samples: Divisible, size: int, work: Callable[[Any], Result], owner: object
) -> Iterator[Result]:
    """Work on samples part by part; where the device runs out of memory, on parts half as large.

    Args:
        samples: all of them.
        size: most samples of a part.
        work: a part to a result.
        owner: what the size that fits is remembered for, such as a model; weakly.

    Yields:
        Each part's result, in the samples' order.

    Raises:
        ParamattrError: if the device has no room for one sample.

    Warns:
        UserWarning: with the number that fits, each time that it is halved.
    """
    start, size = 0, min(size, _most.get(owner, size))
    while start < len(samples):
        part = samples.part(start, size)
        reason = None
        try:
            result = work(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise ParamattrError(
                    f"the device has no room for one sample ({one_line(error)}): expected room for "
                    "the model, its gradients and one sample's activations; give smaller inputs, "
                    "dtype=torch.bfloat16 or another device"
                ) from error
            reason = one_line(error, 100)
        if reason is None:
            start += len(part)
            yield result
            del result  # before the next part's is made
            continue
        # Outside the handler: the error held on to what the failed pass had allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = _most[owner] = len(part) // 2
        warn(
            f"the device ran out of memory with {len(part)} samples at once ({reason}): at "
            f"most {size} from here on; internal_batch_size={size} does so from the start"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a device's, or the machine's, that has no memory left.

    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    True
    >>> is_out_of_memory(RuntimeError("shapes do not fit"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)

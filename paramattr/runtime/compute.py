"""Where and how a model computes: device, precision, and fewer samples where memory ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

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


@dataclass(frozen=True)
class Compute:
    """The options of a run that change only its speed and its rounding.

    Attributes:
        device: where to compute; by default the model's device.
        dtype: precision that the model computes in; by default the model's, float32 at least. Half
            precision is mixed (`torch.autocast`): parameters and inputs are float32, and only
            matrix products and convolutions compute in half precision.
        compile: whether to differentiate the model under `torch.compile`.
        workers: CPU threads that process samples in parallel.
        memory: bytes that points of the path and sums of gradients may take, all workers together.

    Raises:
        ParamattrError: for a device that is not there, an unusable precision or number of workers.

    >>> Compute(dtype=torch.bfloat16).is_mixed, Compute(dtype=torch.float64).is_mixed
    (True, False)
    """

    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    compile: bool = False
    workers: int = 1
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.device is not None:
            check_device(self.device)
        check_count("workers", self.workers)
        check_count("memory", self.memory, " of bytes, or None")
        if self.dtype is not None and not getattr(self.dtype, "is_floating_point", False):
            raise ParamattrError(
                f"dtype is {self.dtype}: expected a floating-point one, such as torch.bfloat16"
            )

    @property
    def is_mixed(self) -> bool:
        """Return whether only matrix products use the precision (`torch.autocast`)."""
        return self.dtype is not None and self.dtype.itemsize < torch.float32.itemsize

    def given_dtype(self, model: nn.Module) -> torch.dtype | None:
        """Return the precision that parameters and inputs are cast to; None if they are not."""
        if self.dtype is not None:
            return torch.float32 if self.is_mixed else self.dtype
        is_half = any(
            parameter.is_floating_point() and parameter.dtype.itemsize < torch.float32.itemsize
            for parameter in model.parameters()
        )
        return torch.float32 if is_half else None

    def placed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move tensors to the device, each in float32 at least."""
        return {
            name: value.to(self.device or value.device, wide(value.dtype))
            for name, value in values.items()
        }

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Let matrix products compute in half precision, if requested."""
        if not self.is_mixed:
            return nullcontext()
        # The cache would outlive a point of the path, and does not recognise vmap's tensors.
        return torch.autocast(device.type, self.dtype, cache_enabled=False)

    def check_workers(self, model: nn.Module, *, adaptive: bool) -> None:
        """Reject several workers if samples can only be processed one after the other.

        Raises:
            ParamattrError: naming the option that prevents it.
        """
        device = self.device or next(model.parameters()).device
        refused = {
            f"device {device}": torch.device(device).type != "cpu",
            "compile=True": self.compile,
            'method="adaptive"': adaptive,
        }
        for what, holds in refused.items():
            if self.workers > 1 and holds:
                raise ParamattrError(
                    f"workers is {self.workers} with {what}, which processes samples one after the "
                    "other: expected the CPU, no compile and a rule with fixed nodes; use workers=1"
                )


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision for sums: float32 at least.

    >>> wide(torch.float16), wide(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def check_device(device: str | torch.device) -> None:
    """Reject a device that this machine or this build of torch does not have.

    Raises:
        ParamattrError: naming the devices that are there.

    >>> check_device("gpu")
    Traceback (most recent call last):
        ...
    paramattr.errors.ParamattrError: device 'gpu' cannot be used (...): expected one of cpu...
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        cards = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in cards)])
        raise ParamattrError(
            f"device {str(device)!r} cannot be used ({one_line(error)}): expected one of {there}"
        ) from None


def check_count(label: str, count: int | None, or_none: str = "") -> None:
    """Reject anything but a whole number of at least 1, or None.

    Raises:
        ParamattrError: naming the number by its `label`.
    """
    if count is not None and (
        isinstance(count, bool) or not isinstance(count, Integral) or count < 1
    ):
        raise ParamattrError(
            f"{label} is {count!r}: expected a whole number of at least 1{or_none}"
        )

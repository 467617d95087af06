"""Where and how a model computes: the device, the precision, the compiler, the threads."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import ParamattrError


@dataclass(frozen=True)
class Compute:
    """Everything about a run that changes its speed and its rounding, and nothing else.

    Attributes:
        device: where to compute; where the model is by default.
        dtype: precision that the model computes in. By default its own, float32 at least. A half
            precision is mixed (`torch.autocast`): parameters and inputs are float32, and matrix
            products and convolutions alone compute in it.
        compile: whether `torch.compile` translates the model where it is differentiated.
        workers: threads on the CPU that take samples side by side.

    Raises:
        ParamattrError: for a precision or a number of workers that cannot be.

    >>> Compute(dtype=torch.bfloat16).is_mixed, Compute(dtype=torch.float64).is_mixed
    (True, False)
    """

    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    compile: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        check_count("workers", self.workers)
        if self.dtype is not None and not getattr(self.dtype, "is_floating_point", False):
            raise ParamattrError(
                f"dtype is {self.dtype}: expected a floating-point one, such as torch.bfloat16"
            )

    @property
    def is_mixed(self) -> bool:
        """Say whether matrix products alone compute in the precision (`torch.autocast`)."""
        return self.dtype is not None and self.dtype.itemsize < torch.float32.itemsize

    def given_dtype(self, model: nn.Module) -> torch.dtype | None:
        """Name the precision that parameters and inputs are cast to; None for as they are."""
        if self.dtype is not None:
            return torch.float32 if self.is_mixed else self.dtype
        is_half = any(
            parameter.is_floating_point() and parameter.dtype.itemsize < torch.float32.itemsize
            for parameter in model.parameters()
        )
        return torch.float32 if is_half else None

    def placed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put tensors where it computes, each in float32 at least."""
        return {
            name: value.to(self.device or value.device, wide(value.dtype))
            for name, value in values.items()
        }

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Let matrix products compute in the half precision, if it is one."""
        if not self.is_mixed:
            return nullcontext()
        # Its cache would outlive a point of the path, and does not know vmap's tensors.
        return torch.autocast(device.type, self.dtype, cache_enabled=False)

    def check_workers(self, model: nn.Module, *, adaptive: bool) -> None:
        """Refuse several workers where samples can only go one after the other.

        Raises:
            ParamattrError: naming what stands in the way.
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
                    f"workers is {self.workers} with {what}, which takes one sample after the "
                    "other: expected the CPU, no compile and a rule of fixed nodes; take workers=1"
                )


def wide(dtype: torch.dtype) -> torch.dtype:
    """Give the precision that sums are kept in: float32 at least.

    >>> wide(torch.float16), wide(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def check_count(label: str, count: int | None, or_none: str = "") -> None:
    """Refuse what is no whole number of at least 1; None passes.

    Raises:
        ParamattrError: naming the number by its `label`.
    """
    if count is not None and (
        isinstance(count, bool) or not isinstance(count, Integral) or count < 1
    ):
        raise ParamattrError(
            f"{label} is {count!r}: expected a whole number of at least 1{or_none}"
        )

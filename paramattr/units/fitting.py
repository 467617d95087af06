"""Whether numbers, shapes, labels and groups fit one set of units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError

if TYPE_CHECKING:
    from paramattr.units.index import UnitIndex


def check_index(index: UnitIndex) -> None:
    """Refuse an index whose labels name units that its groups do not have.

    Raises:
        UnitError: naming the parameter or the group.
    """
    first = 0
    for name, (start, shape) in index.groups.items():
        _check_shape(f"group {name!r}", shape)
        if start != first:
            raise UnitError(f"group {name!r} begins at unit {start}: expected {first}")
        first += math.prod(shape)
    for name, shape in index.shapes.items():
        _check_shape(f"parameter {name!r}", shape)
    for name, labels in index.labels.items():
        if name not in index.shapes:
            raise UnitError(f"{name!r} has labels and no shape")
        _check_labels(name, labels, index.shapes[name], first)
    for name, placed in index.buffers.items():
        _check_shape(f"buffer {name!r}", placed.shape)
        _check_labels(name, placed.labels, placed.shape, first)


def one_each(index: UnitIndex, values: Tensor, what: str) -> Float[Tensor, "units"]:
    """Copy one number per unit to the CPU, in float64.

    Raises:
        UnitError: for any other shape.
    """
    values = torch.as_tensor(values)
    if values.shape != (len(index),):
        raise UnitError(
            f"{what} need one value for each of {len(index)} units: found shape "
            f"{tuple(values.shape)}"
        )
    return values.detach().cpu().to(torch.float64).clone()


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape):
        raise UnitError(f"{name} has shape {shape}: expected whole numbers of at least 0")


def _check_labels(name: str, labels: Tensor, shape: tuple[int, ...], units: int) -> None:
    fits = len(labels.shape) == len(shape) and all(
        size in (1, whole) for size, whole in zip(labels.shape, shape, strict=True)
    )
    if not fits or labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
        raise UnitError(
            f"the labels of {name!r} are {labels.dtype} of shape {tuple(labels.shape)}: expected "
            f"whole numbers that fit {shape}"
        )
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < units:
        raise UnitError(
            f"the labels of {name!r} go from {int(labels.min())} to {int(labels.max())}: expected "
            f"-1 to {units - 1}"
        )

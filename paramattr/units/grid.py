"""The reducer protocol, and the grids of units that reducers return."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.errors import UnitError, an


@dataclass(frozen=True)
class Units:
    """The division of one parameter into units.

    Attributes:
        group: name of the grid of units; parameters of the same group share its units.
        shape: shape of the grid.
        labels: the unit of each entry, counted row by row over the grid; -1 for none. It has as
            many dimensions as the parameter, each of the parameter's size, or of size 1 if a unit
            spans it.
    """

    group: str
    shape: tuple[int, ...]
    labels: Int[Tensor, "..."]


class Unknown(Enum):
    """A reducer's answer if it does not know a parameter's layout."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN
"""Returned instead of `Units`: the parameter is left out, and `UnitIndex.of` warns about it."""

Answer = Units | Unknown | None
Reducer = Callable[[str, Tensor, nn.Module], Answer]
"""`(name, parameter, module)` to the parameter's units, or None to leave it out.

A reducer may have two attributes. `for_model(model)` is called once with the whole model and
returns the reducer of its parameters. With `of_buffers = True` the reducer is called on
floating-point buffers too.
"""

_Own = TypeVar("_Own", bound=Reducer)


@dataclass(frozen=True)
class OfModel:
    """A reducer made from a function that looks at the whole model first.

    Called with one parameter, it treats the module that holds it as the whole model.

    Attributes:
        rule: a function from a model to the reducer of its parameters.
        of_buffers: whether it is called on floating-point buffers too.
    """

    rule: Callable[[nn.Module], Reducer]
    of_buffers: bool = False

    @property
    def __name__(self) -> str:
        """Return the function's name."""
        return self.rule.__name__

    def for_model(self, model: nn.Module) -> Reducer:
        """Return the reducer of one model's parameters."""
        return self.rule(model)

    def __call__(self, name: str, parameter: Tensor, module: nn.Module) -> Answer:
        """Return the units of a parameter by the module that holds it."""
        path, _, attribute = name.rpartition(".")
        answer = self.rule(module)(attribute, parameter, module)
        if not isinstance(answer, Units) or not path:
            return answer
        whole = answer.group == type(module).__name__  # the module itself is the block
        return replace(answer, group=path if whole else f"{path}.{answer.group}")


def asked_of(reducer: Reducer, model: nn.Module) -> Reducer:
    """Return the reducer of a model's parameters: from `for_model` if there is one."""
    for_model: Callable[[nn.Module], Reducer] | None = getattr(reducer, "for_model", None)
    return reducer if for_model is None else for_model(model)


def of_buffers(reducer: _Own) -> _Own:
    """Mark a reducer as one that is called on floating-point buffers too."""
    reducer.of_buffers = True  # type: ignore[attr-defined]
    return reducer


def looked_up(answers: dict[str, Answer]) -> Reducer:
    """Make a reducer from a table of names to answers; missing names are left out."""
    return lambda name, parameter, module: answers.get(name)


def layer_of(name: str) -> str:
    """Name the layer of a parameter: its module's path, or the parameter's name at the root.

    >>> layer_of("body.0.conv1.weight"), layer_of("weight")
    ('body.0.conv1', 'weight')
    """
    return name.rpartition(".")[0] or name


def counted(*shape: int) -> Int[Tensor, "..."]:
    """Number the places of a grid row by row."""
    return torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)


def along(labels: Int[Tensor, "n"], dimension: int, ndim: int) -> Int[Tensor, "..."]:
    """Lay labels along one dimension of a parameter of `ndim` dimensions."""
    shape = [1] * ndim
    shape[dimension] = len(labels)
    return labels.to(torch.int32).reshape(shape)


class Grids:
    """The groups of units seen so far."""

    def __init__(self) -> None:
        self.groups: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._length = 0

    def labels(self, units: object, name: str, parameter: Tensor) -> Int[Tensor, "..."]:
        """Number a parameter's units after those of the groups before it.

        Raises:
            UnitError: if the reducer's answer does not fit the parameter or the group.
        """
        units = _checked(units, name, parameter)
        if units.group not in self.groups:
            self.groups[units.group] = (self._length, tuple(units.shape))
            self._length += math.prod(units.shape)
        start, shape = self.groups[units.group]
        if shape != tuple(units.shape):
            raise UnitError(
                f"the reducer gave group {units.group!r} the shape {shape} and, for parameter "
                f"{name!r}, {tuple(units.shape)}: expected one shape per group"
            )
        labels = units.labels.to("cpu", torch.int32)
        return torch.where(labels < 0, labels, labels + start)


def _checked(units: object, name: str, parameter: Tensor) -> Units:
    if not isinstance(units, Units):
        raise UnitError(
            f"the reducer gave {an(type(units))} for parameter {name!r}: expected "
            "paramattr.units.reducers.Units, or None to leave the parameter out"
        )
    labels = units.labels
    fits = labels.ndim == parameter.ndim and all(
        length in (1, size) for length, size in zip(labels.shape, parameter.shape, strict=True)
    )
    if not fits:
        raise UnitError(
            f"the reducer gave labels of shape {tuple(labels.shape)} for parameter {name!r} of "
            f"shape {tuple(parameter.shape)}: expected the same number of dimensions, each of the "
            "parameter's size or 1"
        )
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < math.prod(units.shape):
        raise UnitError(
            f"the reducer gave labels from {int(labels.min())} to {int(labels.max())} for "
            f"parameter {name!r}: expected -1 (no unit) to {math.prod(units.shape) - 1}, since "
            f"the group's shape is {tuple(units.shape)}"
        )
    return units

"""The grid of units that a reducer gives a parameter, and what a reducer is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.errors import UnitError


@dataclass(frozen=True)
class Units:
    """How one parameter falls into units.

    Attributes:
        group: name of the grid of units; parameters that give the same group share its units.
        shape: shape of the grid.
        labels: the unit of each entry, counted row by row over the grid; -1 for none. Of the
            parameter's number of dimensions, with size 1 along those that a unit spans.
    """

    group: str
    shape: tuple[int, ...]
    labels: Int[Tensor, "..."]


class Unknown(Enum):
    """The answer of a reducer that cannot tell how a parameter is laid out."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN
"""Given in place of `Units`: the parameter is left out, and `UnitIndex.of` warns of it."""

Answer = Units | Unknown | None
Reducer = Callable[[str, Tensor, nn.Module], Answer]
"""`(name, parameter, module)` to the parameter's units, or None to leave it out.

A reducer may have two attributes. `for_model(model)` is called once with the whole model and
returns the reducer that is asked about its parameters. `of_buffers = True` says that it is asked
about floating-point buffers too.
"""

_Any = TypeVar("_Any", bound=Reducer)


@dataclass(frozen=True)
class OfModel:
    """A reducer made of a function that looks at the whole model first.

    Called with one parameter, it takes the module that holds it for the whole model.

    Attributes:
        rule: a model to the reducer of its parameters.
    """

    rule: Callable[[nn.Module], Reducer]

    @property
    def __name__(self) -> str:
        """Give the name of the function."""
        return self.rule.__name__

    def for_model(self, model: nn.Module) -> Reducer:
        """Give the reducer of one model's parameters."""
        return self.rule(model)

    def __call__(self, name: str, parameter: Tensor, module: nn.Module) -> Answer:
        """Give the units of a parameter by the module that holds it."""
        path, _, attribute = name.rpartition(".")
        answer = self.rule(module)(attribute, parameter, module)
        if not isinstance(answer, Units) or not path:
            return answer
        whole = answer.group == type(module).__name__  # the module itself is the block
        return replace(answer, group=path if whole else f"{path}.{answer.group}")


def asked_of(reducer: Reducer, model: nn.Module) -> Reducer:
    """Give what is asked about a model's parameters: `for_model` where there is one."""
    for_model = getattr(reducer, "for_model", None)
    found: Reducer = reducer if for_model is None else for_model(model)
    return found


def of_buffers(reducer: _Any) -> _Any:
    """Mark a reducer as one that is asked about floating-point buffers too."""
    reducer.of_buffers = True  # type: ignore[attr-defined]
    return reducer


def looked_up(answers: dict[str, Answer]) -> Reducer:
    """Make a reducer of a table from names to answers; names that it lacks are left out."""
    return lambda name, parameter, module: answers.get(name)


def layer_of(name: str) -> str:
    """Name the layer of a parameter: its module's path, or its own name at the model's root.

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
    """The groups of units met so far."""

    def __init__(self) -> None:
        self.groups: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._length = 0

    def labels(self, units: object, name: str, parameter: Tensor) -> Int[Tensor, "..."]:
        """Number a parameter's units behind those of the groups before it.

        Raises:
            UnitError: if what the reducer gave does not fit the parameter, or the group.
        """
        units = _checked(units, name, parameter)
        if units.group not in self.groups:
            self.groups[units.group] = (self._length, tuple(units.shape))
            self._length += math.prod(units.shape)
        start, shape = self.groups[units.group]
        if shape != tuple(units.shape):
            raise UnitError(
                f"the reducer gave group {units.group!r} the shape {shape} and, for parameter "
                f"{name!r}, {tuple(units.shape)}: expected one shape a group"
            )
        own = units.labels.to("cpu", torch.int32)
        return torch.where(own < 0, own, own + start)


def _checked(units: object, name: str, parameter: Tensor) -> Units:
    if not isinstance(units, Units):
        raise UnitError(
            f"the reducer gave a {type(units).__name__} for parameter {name!r}: expected "
            "paramattr.units.reducers.Units, or None to leave the parameter out"
        )
    labels = units.labels
    fits = labels.ndim == parameter.ndim and all(
        own in (1, size) for own, size in zip(labels.shape, parameter.shape, strict=True)
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

"""Units: the groups of parameter entries that get one number each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paramattr.checkpoints import fingerprint
from paramattr.errors import UnitError
from paramattr.parameters import named_parameters, owners
from paramattr.units.reducers import Reducer, Units, get_reducer, layer_of


class Unit(NamedTuple):
    """One unit: the parameter (or group of parameters) it lies in, and its position there."""

    name: str
    position: tuple[int, ...]


class UnitIndex:
    """Which entries of which parameters belong to which unit.

    Make one with `UnitIndex.of(model, reducer)`. Indexing it by a number gives the `Unit`.

    Attributes:
        shapes: names of all the model's parameters to their shapes.
        labels: names of the parameters that have units to the unit of each entry, -1 for none, of
            size 1 along dimensions that a unit spans.
        groups: names of the grids of units to their first unit and shape, in the units' order.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        labels: Mapping[str, Int[Tensor, "..."]],
        groups: Mapping[str, tuple[int, tuple[int, ...]]],
    ) -> None:
        self.shapes, self.labels, self.groups = dict(shapes), dict(labels), dict(groups)
        self._length = sum(math.prod(shape) for _, shape in self.groups.values())

    @classmethod
    def of(cls, model: nn.Module, reducer: str | Reducer) -> UnitIndex:
        """Ask a reducer for the units of every floating-point parameter of a model.

        Raises:
            ModelError: if `model` is no module, or a parameter of it is lazy or complex.
            UnitError: for an unknown reducer, one that leaves every parameter out, or one whose
                answer does not fit the parameter; the message names it.
        """
        function, parameters = get_reducer(reducer), named_parameters(model)
        shapes: dict[str, tuple[int, ...]] = {}
        labels: dict[str, Tensor] = {}
        groups: dict[str, tuple[int, tuple[int, ...]]] = {}
        found = owners(model)
        length = 0
        for name in parameters:
            parameter = model.get_parameter(name)
            shapes[name] = tuple(parameter.shape)
            units = function(name, parameter, found[name][0].module)
            if units is None:
                continue
            _check_units(units, name, parameter)
            if units.group not in groups:
                groups[units.group] = (length, tuple(units.shape))
                length += math.prod(units.shape)
            start, shape = groups[units.group]
            if shape != tuple(units.shape):
                raise UnitError(
                    f"the reducer gave group {units.group!r} the shape {shape} and, for parameter "
                    f"{name!r}, {tuple(units.shape)}: expected one shape a group"
                )
            own = units.labels.to("cpu", torch.int32)
            labels[name] = torch.where(own < 0, own, own + start)
        if not labels:
            raise UnitError(
                f"the reducer {reducer!r} leaves every parameter of {type(model).__name__} out: "
                "there is no unit to score; 'kernel' takes convolutions alone, 'output_channel' "
                "takes linear layers too"
            )
        return cls(shapes, labels, groups)

    def __len__(self) -> int:
        """Count the units."""
        return self._length

    def __getitem__(self, number: int) -> Unit:
        """Name the unit of a number."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"unit {number} of {len(self)}")
        number = int(number) % len(self)
        for name, (start, shape) in self.groups.items():
            if number < start + math.prod(shape):
                place = torch.unravel_index(torch.tensor(number - start), shape)
                return Unit(name, tuple(int(p) for p in place))
        raise AssertionError("unreachable: the groups cover all units")

    def __eq__(self, other: object) -> bool:
        """Say whether two indexes hold the same units of the same parameters."""
        if not isinstance(other, UnitIndex):
            return NotImplemented
        if self is other:
            return True
        return (
            self.shapes == other.shapes
            and self.groups == other.groups
            and self.labels.keys() == other.labels.keys()
            and all(torch.equal(own, other.labels[name]) for name, own in self.labels.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def reduce(self, magnitudes: Mapping[str, Tensor]) -> Float[Tensor, "units"]:
        """Sum the entries of each unit, in float64.

        Args:
            magnitudes: names to tensors shaped like the parameters; those that are missing, or
                have no unit, count as zero.
        """
        device = next(iter(magnitudes.values())).device if magnitudes else torch.device("cpu")
        sums = torch.zeros(len(self) + 1, dtype=torch.float64, device=device)
        for name, labels in self.labels.items():
            if name in magnitudes:
                spanned = [d for d, size in enumerate(labels.shape) if size == 1]
                values = magnitudes[name]
                if spanned:
                    values = values.sum(spanned, keepdim=True, dtype=torch.float64)
                target = labels.to(device, torch.int64).flatten()  # -1 falls into the spare place
                sums.index_add_(0, target % (len(self) + 1), values.double().flatten())
        return sums[:-1]

    def mask(self, name: str, chosen: Bool[Tensor, "units"]) -> Bool[Tensor, "..."]:
        """Mark the entries of a parameter that lie in chosen units.

        Returns:
            A boolean tensor of the parameter's shape, all False where it has no unit.

        Raises:
            UnitError: if there is no such parameter.
        """
        if name not in self.shapes:
            raise UnitError(
                f"parameter {name!r} is not known: expected one of the model's, such as "
                f"{next(iter(self.shapes))!r}"
            )
        shape = self.shapes[name]
        if name not in self.labels:
            return torch.zeros(shape, dtype=torch.bool)
        spare = torch.cat([chosen.cpu(), torch.zeros(1, dtype=torch.bool)])
        return spare[self.labels[name].to(torch.int64)].expand(shape).clone()

    def layers(self) -> dict[str, Int[Tensor, "..."]]:
        """Give the numbers of the units that touch each layer, in the model's order."""
        found: dict[str, list[Tensor]] = {}
        for name, labels in self.labels.items():
            found.setdefault(layer_of(name), []).append(labels[labels >= 0].flatten())
        return {path: torch.cat(parts).unique().to(torch.int64) for path, parts in found.items()}

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give what `from_tensors` makes the index of again: tensors, and metadata for JSON."""
        tensors = {f"labels.{name}": labels for name, labels in self.labels.items()}
        metadata = {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "labels": list(self.labels),
            "groups": [[name, start, list(shape)] for name, (start, shape) in self.groups.items()],
        }
        return tensors, metadata

    def fingerprint(self) -> str:
        """Digest the units, so that two indexes can be told apart."""
        tensors, metadata = self.to_tensors()
        return fingerprint([tensors, {json.dumps(metadata): torch.empty(0)}])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> UnitIndex:
        """Make the index again from what `to_tensors` gave."""
        return cls(
            {name: tuple(shape) for name, shape in metadata["shapes"].items()},
            {name: tensors[f"labels.{name}"] for name in metadata["labels"]},
            {name: (start, tuple(shape)) for name, start, shape in metadata["groups"]},
        )


def check_same_units(one: UnitIndex, other: UnitIndex, what: str) -> None:
    """Refuse to combine what speaks of different units.

    Raises:
        UnitError: naming `what` was asked for, and both sides.
    """
    if one != other:
        raise UnitError(
            f"{what} needs the same units on both sides: found {_summary(one)} and "
            f"{_summary(other)}; score both on one model with one reducer"
        )


def _summary(index: UnitIndex) -> str:
    first = next(iter(index.groups), None)
    return f"{len(index)} units in {len(index.groups)} groups ({first!r}, ...)"


def _check_units(units: Units, name: str, parameter: Tensor) -> None:
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

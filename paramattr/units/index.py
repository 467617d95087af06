"""Units: the groups of parameter entries that get one number each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paramattr.checkpoints import fingerprint
from paramattr.errors import UnitError, warn
from paramattr.parameters import named_parameters, owners
from paramattr.units.grid import UNKNOWN, Grids, Reducer, asked_of, layer_of
from paramattr.units.reducers import get_reducer
from paramattr.units.statistics import labels_or_answers
from paramattr.wrappers import unwrapped


class Unit(NamedTuple):
    """One unit: the parameter (or group of parameters) it lies in, and its position there."""

    name: str
    position: tuple[int, ...]


class Placed(NamedTuple):
    """A buffer's shape, and the unit of each of its entries."""

    shape: tuple[int, ...]
    labels: Int[Tensor, "..."]


class UnitIndex:
    """Which entries of which parameters belong to which unit.

    Make one with `UnitIndex.of(model, reducer)`. Indexing it by a number gives the `Unit`.

    Attributes:
        shapes: names of all the model's parameters to their shapes.
        labels: names of the parameters that have units to the unit of each entry, -1 for none, of
            size 1 along dimensions that a unit spans.
        groups: names of the grids of units to their first unit and shape, in the units' order.
        buffers: names of the floating-point buffers that have units to their shape and labels. A
            norm's statistics have the labels of its weight.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        labels: Mapping[str, Int[Tensor, "..."]],
        groups: Mapping[str, tuple[int, tuple[int, ...]]],
        buffers: Mapping[str, Placed] | None = None,
    ) -> None:
        self.shapes, self.labels, self.groups = dict(shapes), dict(labels), dict(groups)
        self.buffers = dict(buffers or {})
        self._length = sum(math.prod(shape) for _, shape in self.groups.values())

    @classmethod
    def of(cls, model: nn.Module, reducer: str | Reducer) -> UnitIndex:
        """Ask a reducer for the units of every floating-point parameter of a model.

        Warns:
            UserWarning: once, naming the weights whose layout the reducer does not know.

        Raises:
            ModelError: if `model` is no module, or a parameter of it is lazy or complex.
            UnitError: for an unknown reducer, one that leaves every parameter out, or one whose
                answer does not fit the parameter; the message names it.
        """
        model = unwrapped(model)
        given, parameters = get_reducer(reducer), named_parameters(model)
        asked, places, grids = asked_of(given, model), owners(model), Grids()
        shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        labels: dict[str, Tensor] = {}
        unknown: list[str] = []
        for name in parameters:
            parameter = model.get_parameter(name)
            units = asked(name, parameter, places[name][0].module)
            if units is UNKNOWN:
                unknown.append(name)
            elif units is not None:
                labels[name] = grids.labels(units, name, parameter)
        buffers: dict[str, Placed] = {}
        ask = getattr(given, "of_buffers", False) is True
        for name, answer in labels_or_answers(model, asked, labels, ask=ask).items():
            buffer = model.get_buffer(name)
            if answer is not None and answer is not UNKNOWN:
                own = answer if isinstance(answer, Tensor) else grids.labels(answer, name, buffer)
                buffers[name] = Placed(tuple(buffer.shape), own)
        if not labels and not buffers:
            raise UnitError(_nothing_left(reducer, model, unknown))
        if unknown:
            warn(
                f"{len(unknown)} weights are left out, since their layout is not known to the "
                f"reducer: {_listed(unknown)}; `Scores.unassigned` counts them; a reducer of your "
                "own can name their units"
            )
        return cls(shapes, labels, grids.groups, buffers)

    def __len__(self) -> int:
        """Count the units."""
        return self._length

    def __iter__(self) -> Iterator[Unit]:
        """Name the units in their order."""
        for name, (_, shape) in self.groups.items():
            for position in product(*map(range, shape)):
                yield Unit(name, position)

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
            and self.buffers.keys() == other.buffers.keys()
            and all(
                own.shape == other.buffers[name].shape
                and torch.equal(own.labels, other.buffers[name].labels)
                for name, own in self.buffers.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def reduce(self, magnitudes: Mapping[str, Tensor]) -> Float[Tensor, "units"]:
        """Sum the entries of each unit, in float64.

        Args:
            magnitudes: names to tensors shaped like the parameters and buffers; those that are
                missing count as zero, those that have no unit do not count.
        """
        return self._sums(magnitudes)[:-1]

    def reduce_with_rest(
        self, magnitudes: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "units"], Float[Tensor, ""]]:
        """Sum the entries of each unit, and those of no unit, in float64.

        Args:
            magnitudes: names to tensors; all of one whose name has no units is of no unit.

        Returns:
            What `reduce` gives, and the sum of the rest: the two add up to the sum of all entries.
        """
        sums = self._sums(magnitudes)
        rest = sums[-1]
        for name, values in magnitudes.items():
            if name not in self.labels and name not in self.buffers:
                rest = rest + values.sum(dtype=torch.float64)
        return sums[:-1], rest

    def mask(self, name: str, chosen: Bool[Tensor, "units"]) -> Bool[Tensor, "..."]:
        """Mark the entries of a parameter, or of a buffer with units, that lie in chosen units.

        Returns:
            A boolean tensor of the parameter's shape, all False where it has no unit.

        Raises:
            UnitError: if there is no such parameter or buffer.
        """
        if name in self.buffers:
            shape, labels = self.buffers[name]
        elif name in self.shapes:
            shape = self.shapes[name]
            if name not in self.labels:
                return torch.zeros(shape, dtype=torch.bool)
            labels = self.labels[name]
        else:
            raise UnitError(
                f"parameter {name!r} is not known: expected one of the model's, such as "
                f"{next(iter(self.shapes))!r}"
            )
        spare = torch.cat([chosen.cpu(), torch.zeros(1, dtype=torch.bool)])
        return spare[labels.to(torch.int64)].expand(shape).clone()

    def layers(self) -> dict[str, Int[Tensor, "..."]]:
        """Give the numbers of the units of each layer, in the model's order; each stands once.

        A unit that lies in several layers, such as an attention head, stands under its group
        instead, where the first of these layers would be.
        """
        touched: dict[str, list[Tensor]] = {}
        for name, labels in self._all_labels():
            touched.setdefault(layer_of(name), []).append(labels[labels >= 0].flatten())
        units = {path: torch.cat(p).unique().to(torch.int64) for path, p in touched.items()}
        times = torch.zeros(len(self), dtype=torch.int64)
        for own in units.values():
            times[own] += 1
        starts = torch.tensor([start for start, _ in self.groups.values()])
        names, found = list(self.groups), dict[str, list[Tensor]]()
        for path, own in units.items():
            if (times[own] == 1).any():
                found.setdefault(path, []).append(own[times[own] == 1])
            spanning = own[times[own] > 1]
            times[spanning] = 0  # found: not once more in the next layer
            self._by_group(spanning, starts, names, found)
        nowhere = times == 0
        for parts in found.values():
            nowhere[torch.cat(parts)] = False
        self._by_group(nowhere.nonzero().flatten(), starts, names, found)
        return {path: torch.cat(parts).sort().values for path, parts in found.items()}

    def _by_group(
        self, units: Tensor, starts: Tensor, names: list[str], found: dict[str, list[Tensor]]
    ) -> None:
        groups = torch.searchsorted(starts, units, right=True) - 1
        for group in groups.unique().tolist():
            found.setdefault(names[group], []).append(units[groups == group])

    def _all_labels(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.labels.items()
        for name, placed in self.buffers.items():
            yield name, placed.labels

    def _sums(self, magnitudes: Mapping[str, Tensor]) -> Float[Tensor, "units_and_rest"]:
        device = next(iter(magnitudes.values())).device if magnitudes else torch.device("cpu")
        sums = torch.zeros(len(self) + 1, dtype=torch.float64, device=device)
        for name, labels in self._all_labels():
            if name in magnitudes:
                spanned = [d for d, size in enumerate(labels.shape) if size == 1]
                values = magnitudes[name]
                if spanned:
                    values = values.sum(spanned, keepdim=True, dtype=torch.float64)
                target = labels.to(device, torch.int64).flatten()  # -1 falls into the spare place
                sums.index_add_(0, target % (len(self) + 1), values.double().flatten())
        return sums

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give what `from_tensors` makes the index of again: tensors, and metadata for JSON."""
        tensors = {f"labels.{name}": labels for name, labels in self.labels.items()}
        metadata: dict[str, Any] = {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "labels": list(self.labels),
            "groups": [[name, start, list(shape)] for name, (start, shape) in self.groups.items()],
        }
        if self.buffers:
            tensors |= {f"buffers.{name}": own.labels for name, own in self.buffers.items()}
            metadata["buffers"] = {name: list(own.shape) for name, own in self.buffers.items()}
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
            {
                name: Placed(tuple(shape), tensors[f"buffers.{name}"])
                for name, shape in metadata.get("buffers", {}).items()
            },
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


def _nothing_left(reducer: object, model: nn.Module, unknown: list[str]) -> str:
    message = (
        f"the reducer {reducer!r} leaves every parameter of {type(model).__name__} out: there is "
        "no unit to score; 'kernel' takes convolutions alone, 'output_channel' takes linear layers "
        "too"
    )
    if unknown:
        message += f"; the layout of {len(unknown)} weights is not known: {_listed(unknown)}"
    return message


def _listed(names: list[str], most: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")

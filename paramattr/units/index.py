"""The index of a model's units, which says to which unit each entry belongs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paramattr.errors import UnitError, warn
from paramattr.files.reading import fingerprint
from paramattr.parameters import STATISTICS, Statistics, float_buffers, named_parameters, owners
from paramattr.units.grid import UNKNOWN, Grids, Reducer, asked_of, layer_of
from paramattr.units.reducers import get_reducer
from paramattr.wrappers import unwrapped


class Unit(NamedTuple):
    """One unit: its parameter (or group of parameters), and its position in it."""

    name: str
    position: tuple[int, ...]


class Placed(NamedTuple):
    """A buffer's shape, and the unit of each of its entries."""

    shape: tuple[int, ...]
    labels: Int[Tensor, "..."]


class UnitIndex:
    """The units of a model: to which unit each entry of each parameter belongs.

    Make one with `UnitIndex.of(model, reducer)`. Indexing it by a number gives the `Unit`.

    Attributes:
        shapes: name of each of the model's parameters to its shape.
        labels: name of each parameter with units to the unit of each entry: -1 for none, and size 1
            along dimensions that a unit spans.
        groups: name of each grid of units to its first unit and its shape, in the units' order.
        buffers: name of each floating-point buffer with units to its shape and labels. A norm's
            statistics have the labels of its weight.
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
            ModelError: if `model` is not a module, or has a lazy or complex parameter.
            UnitError: if the reducer is unknown, leaves every parameter out, or returns an answer
                that does not fit the parameter that the message names.
        """
        model = unwrapped(model)
        rule, parameters = get_reducer(reducer), named_parameters(model)
        asked, places, grids = asked_of(rule, model), owners(model), Grids()
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
        beside = _weights_beside(model)
        takes_buffers = getattr(rule, "of_buffers", False) is True
        for name, buffer in float_buffers(model).items():
            if beside.get(name) in labels:
                buffers[name] = Placed(tuple(buffer.shape), labels[beside[name]])
            elif takes_buffers:
                units = asked(name, buffer, model.get_submodule(name.rpartition(".")[0]))
                if units is UNKNOWN:
                    unknown.append(name)
                elif units is not None:
                    placed = grids.labels(units, name, buffer)
                    buffers[name] = Placed(tuple(buffer.shape), placed)
        if not labels and not buffers:
            raise UnitError(_nothing_left(reducer, model, unknown))
        if unknown:
            warn(
                f"{len(unknown)} weights are left out, since their layout is not known to the "
                f"reducer: {_listed(unknown)}; `Scores.unassigned` counts them; write your own "
                "reducer, a callable, to give them units"
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
        """Return the unit with a number."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"unit {number} of {len(self)}")
        number = int(number) % len(self)
        for name, (start, shape) in self.groups.items():
            if number < start + math.prod(shape):
                place = torch.unravel_index(torch.tensor(number - start), shape)
                return Unit(name, tuple(int(p) for p in place))
        raise AssertionError("unreachable: the groups cover all units")

    def __eq__(self, other: object) -> bool:
        """Return whether two indexes hold the same units of the same parameters."""
        if not isinstance(other, UnitIndex):
            return NotImplemented
        if self is other:
            return True
        return (
            self.shapes == other.shapes
            and self.groups == other.groups
            and self.labels.keys() == other.labels.keys()
            and all(torch.equal(labels, other.labels[name]) for name, labels in self.labels.items())
            and self.buffers.keys() == other.buffers.keys()
            and all(
                placed.shape == other.buffers[name].shape
                and torch.equal(placed.labels, other.buffers[name].labels)
                for name, placed in self.buffers.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def reduce(self, magnitudes: Mapping[str, Tensor]) -> Float[Tensor, "units"]:
        """Sum the entries of each unit, in float64.

        Args:
            magnitudes: names to tensors shaped like the parameters and buffers. Missing ones count
                as zero; entries without a unit do not count.
        """
        return self._sums(magnitudes)[:-1]

    def reduce_with_rest(
        self, magnitudes: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "units"], Float[Tensor, ""]]:
        """Sum the entries of each unit, and those of no unit, in float64.

        Args:
            magnitudes: names to tensors; a tensor whose name has no units counts as rest.

        Returns:
            The sums per unit, and the sum of the rest. Together they add up to the sum of all
            entries.
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
        """Return the numbers of each layer's units, in the model's order; each appears once.

        A unit that spans layers, such as an attention head, appears under its group instead, at the
        place of the first of these layers.
        """
        touched: dict[str, list[Tensor]] = {}
        for name, labels in self.all_labels():
            touched.setdefault(layer_of(name), []).append(labels[labels >= 0].flatten())
        units = {path: torch.cat(p).unique().to(torch.int64) for path, p in touched.items()}
        times = torch.zeros(len(self), dtype=torch.int64)
        for numbers in units.values():
            times[numbers] += 1
        starts = torch.tensor([start for start, _ in self.groups.values()])
        names, layers = list(self.groups), dict[str, list[Tensor]]()
        for path, numbers in units.items():
            if (times[numbers] == 1).any():
                layers.setdefault(path, []).append(numbers[times[numbers] == 1])
            spanning = numbers[times[numbers] > 1]
            times[spanning] = 0  # done: not again in the next layer
            _add_by_group(spanning, starts, names, layers)
        nowhere = times == 0
        for parts in layers.values():
            nowhere[torch.cat(parts)] = False
        _add_by_group(nowhere.nonzero().flatten(), starts, names, layers)
        return {path: torch.cat(parts).sort().values for path, parts in layers.items()}

    def all_labels(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the labels of parameters, then those of buffers, by name."""
        yield from self.labels.items()
        for name, placed in self.buffers.items():
            yield name, placed.labels

    def _sums(self, magnitudes: Mapping[str, Tensor]) -> Float[Tensor, "units_and_rest"]:
        device = next(iter(magnitudes.values())).device if magnitudes else torch.device("cpu")
        sums = torch.zeros(len(self) + 1, dtype=torch.float64, device=device)
        for name, labels in self.all_labels():
            if name in magnitudes:
                spanned = [d for d, size in enumerate(labels.shape) if size == 1]
                values = magnitudes[name]
                if spanned:
                    values = values.sum(spanned, keepdim=True, dtype=torch.float64)
                target = labels.to(device, torch.int64).flatten()  # -1 goes to the spare place
                sums.index_add_(0, target % (len(self) + 1), values.double().flatten())
        return sums

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON metadata from which `from_tensors` restores the index."""
        tensors = {f"labels.{name}": labels for name, labels in self.labels.items()}
        metadata: dict[str, Any] = {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "labels": list(self.labels),
            "groups": [[name, start, list(shape)] for name, (start, shape) in self.groups.items()],
        }
        if self.buffers:
            tensors |= {f"buffers.{name}": placed.labels for name, placed in self.buffers.items()}
            metadata["buffers"] = {
                name: list(placed.shape) for name, placed in self.buffers.items()
            }
        return tensors, metadata

    def fingerprint(self) -> str:
        """Digest the units, to tell indexes apart."""
        tensors, metadata = self.to_tensors()
        return fingerprint([tensors, {json.dumps(metadata): torch.empty(0)}])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> UnitIndex:
        """Restore the index from the result of `to_tensors`.

        Raises:
            UnitError: if they do not fit together.
        """
        index = cls(
            {name: tuple(shape) for name, shape in metadata["shapes"].items()},
            {name: tensors[f"labels.{name}"] for name in metadata["labels"]},
            {name: (start, tuple(shape)) for name, start, shape in metadata["groups"]},
            {
                name: Placed(tuple(shape), tensors[f"buffers.{name}"])
                for name, shape in metadata.get("buffers", {}).items()
            },
        )
        _check(index)
        return index


def check_same_units(index: UnitIndex, other: UnitIndex, what: str) -> None:
    """Reject two indexes of different units.

    Raises:
        UnitError: naming `what` needs them to be equal, and both indexes.
    """
    if index != other:
        raise UnitError(
            f"{what} needs the same units on both sides: found {_summary(index)} and "
            f"{_summary(other)}; score both on one model with one reducer"
        )


def _weights_beside(model: nn.Module) -> dict[str, str]:
    """Name, for each buffer that is a statistic of a norm, the weight of that norm."""
    # By identity: a tied weight goes by the name of its first owner.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{path}.{statistic}" if path else statistic: weight
        for path, module in model.named_modules()
        if isinstance(module, Statistics)
        and (weight := names.get(id(module._parameters.get("weight")))) is not None
        for statistic in STATISTICS
    }


def _add_by_group(
    units: Tensor, starts: Tensor, names: list[str], layers: dict[str, list[Tensor]]
) -> None:
    groups = torch.searchsorted(starts, units, right=True) - 1
    for group in groups.unique().tolist():
        layers.setdefault(names[group], []).append(units[groups == group])


def _check(index: UnitIndex) -> None:
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


def _summary(index: UnitIndex) -> str:
    first = next(iter(index.groups), None)
    return f"{len(index)} units in {len(index.groups)} groups ({first!r}, ...)"


def _nothing_left(reducer: object, model: nn.Module, unknown: list[str]) -> str:
    message = (
        f"the reducer {reducer!r} leaves every parameter of {type(model).__name__} out: there is "
        "no unit to score; 'kernel' takes only convolutions, 'output_channel' takes linear layers "
        "too"
    )
    if unknown:
        message += (
            f"; the layout of {len(unknown)} weights is not known: {_listed(unknown)}; write your "
            "own reducer, a callable, to give them units"
        )
    return message


def _listed(names: list[str], most: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")

"""One sample's attributions summed over units, parameter by parameter, as they come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paramattr.units.index import UnitIndex

CHUNK = 2**17
"""Entries that are taken together on a CPU, so that what is made of them stays in its cache."""


class Reduced(NamedTuple):
    """One sample's attributions, reduced to units, in float64 on the CPU.

    Attributes:
        magnitudes: Σ_{i in u} |A_i| of each unit.
        signed: Σ_{i in u} A_i of each unit.
        rest: Σ |A_i| over entries of no unit.
        total: Σ A_i over all entries, in a unit or not; NaN where it is not known.
    """

    magnitudes: Float[Tensor, "units"]
    signed: Float[Tensor, "units"]
    rest: float = 0.0
    total: float = math.nan


class _Place(NamedTuple):
    """Where a parameter's entries go in one set of units.

    Attributes:
        units: name of the set.
        targets: unit of each entry, one past the last unit for none; one along dimensions that a
            unit spans.
        first: the first unit, if the targets are that one and those that follow it, in order.
    """

    units: str
    targets: Tensor
    first: int | None

    def of_rows(self, rows: Int[Tensor, "some"], whole: Tensor) -> _Place:
        """Give the place of some rows; `whole` holds what goes there."""
        own = self.targets.view(-1, whole[0, :1].numel())[rows]
        return self._replace(targets=own.flatten(), first=None)


class Reduction:
    """The sums over units that a run takes of each sample.

    Args:
        indexes: name of each set of units to the units.
        device: where the attributions are.
    """

    def __init__(self, indexes: Mapping[str, UnitIndex], device: torch.device) -> None:
        self.device = device
        self.sizes = {units: len(index) for units, index in indexes.items()}
        self._places: dict[str, dict[tuple[int, ...], list[_Place]]] = {}
        for units, index in indexes.items():
            for name, labels in index.all_labels():
                spanned = tuple(d for d, size in enumerate(labels.shape) if size == 1)
                targets = labels.to(device, torch.int64).flatten() % (len(index) + 1)
                place = _Place(units, targets, _first(targets))
                self._places.setdefault(name, {}).setdefault(spanned, []).append(place)

    def places(self, name: str) -> Mapping[tuple[int, ...], list[_Place]]:
        """Give a parameter's places, by the dimensions that units span."""
        return self._places.get(name, {})

    def of(self, attributions: Mapping[str, Tensor]) -> dict[str, Reduced]:
        """Reduce a sample's attributions.

        Args:
            attributions: names to tensors shaped like the parameters and buffers.

        Returns:
            Name of each set of units to the sums. The entries of a chunk are summed in their own
            precision on a CPU, and chunks in float64.
        """
        tally = Tally(self)
        for name, values in attributions.items():
            tally.add_whole(name, values)
        return tally.reduced()


class Tally:
    """The sums over units of one sample so far.

    Args:
        reduction: what is summed.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self._sums, self._rest = {}, {}
        for units, size in reduction.sizes.items():
            self._sums[units] = torch.zeros(
                2, size + 1, dtype=torch.float64, device=reduction.device
            )
            self._rest[units] = torch.zeros(2, dtype=torch.float64, device=reduction.device)

    def add(
        self,
        name: str,
        parts: Iterable[Float[Tensor, "2 rows ..."]],
        rows: Int[Tensor, "some"] | None = None,
    ) -> None:
        """Add a parameter's attributions.

        Args:
            name: of the parameter.
            parts: the attributions and their magnitudes, some rows after the other. What is given
                may be overwritten once the next one is asked for.
            rows: of the parameter that the parts are; all of them, in order, by default. Those of
                the other rows are 0.
        """
        places = self.reduction.places(name)
        sums: dict[tuple[int, ...], list[Tensor]] = {spanned: [] for spanned in places}
        rests: list[Tensor] = []
        for both in parts:
            for spanned, found in sums.items():
                found.append(_summed(both, spanned))
            if not places:
                rests.append(both.flatten(1).sum(1, dtype=_precision(both)))
        total = torch.stack(rests).double().sum(0) if rests else None
        missing = set(self._sums)
        for spanned, found in sums.items():
            whole = _joined(found, spanned)
            total = whole.flatten(1).sum(1) if total is None and missing else total
            for place in places[spanned]:
                missing.discard(place.units)
                own = place if rows is None or 0 in spanned else place.of_rows(rows, whole)
                _add(self._sums[place.units], own, whole)
        for units in missing:
            if total is not None:
                self._rest[units] += total

    def add_whole(self, name: str, values: Tensor) -> None:
        """Add a parameter's attributions, which are all there."""
        whole = values if values.ndim else values[None]
        parts = (whole[rows] for rows in chunks(whole))
        self.add(name, (torch.stack((part, part.abs())) for part in parts))

    def reduced(self) -> dict[str, Reduced]:
        """Give the sums."""
        found = {}
        for units, sums in self._sums.items():
            of_units = sums.cpu()
            total, rest = (of_units[:, -1] + self._rest[units].cpu()).tolist()
            total += float(of_units[0, :-1].sum())
            found[units] = Reduced(of_units[1, :-1], of_units[0, :-1], rest, total)
        return found


def chunks(values: Tensor) -> Iterator[slice]:
    """Cut a tensor's first dimension: on a CPU into what a cache holds, elsewhere not at all."""
    if values.ndim == 0 or values.device.type != "cpu" or values.numel() <= CHUNK:
        yield slice(None)
        return
    step = max(1, CHUNK * len(values) // values.numel())
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _add(sums: Float[Tensor, "2 units_and_none"], place: _Place, whole: Tensor) -> None:
    flat = whole.flatten(1)
    if place.first is not None:
        sums[:, place.first : place.first + flat.shape[1]].add_(flat)
        return
    for own, values in zip(sums, flat, strict=True):
        own.index_add_(0, place.targets, values)


def _summed(both: Tensor, spanned: tuple[int, ...]) -> Tensor:
    dimensions = [d + 1 for d in spanned]
    if not dimensions:
        return both.to(torch.float64, copy=True)
    return both.sum(dimensions, keepdim=True, dtype=_precision(both))


def _joined(parts: list[Tensor], spanned: tuple[int, ...]) -> Float[Tensor, "2 ..."]:
    if len(parts) == 1:
        return parts[0].double()
    return torch.stack(parts).double().sum(0) if 0 in spanned else torch.cat(parts, 1).double()


def _precision(values: Tensor) -> torch.dtype | None:
    # A CPU copies the whole tensor for a wider sum; an accelerator does not.
    return torch.float64 if values.device.type != "cpu" else None


def _first(targets: Tensor) -> int | None:
    if not len(targets):
        return None
    is_run = torch.equal(targets, torch.arange(len(targets), device=targets.device) + targets[0])
    return int(targets[0]) if is_run else None

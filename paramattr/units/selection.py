"""`Selection`: a set of units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import compress
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paramattr.errors import UnitError, an
from paramattr.figures import empty_figure
from paramattr.files.reading import load_kind, save_state_dict, taken_apart
from paramattr.units.index import Unit, UnitIndex, check_same_units
from paramattr.units.showing import bars, frame, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Selection:
    """A set of units of one model, such as the top 1% of its filters.

    Sets of the same units combine by `|` (union), `&` (both), `-` (without) and `~` (the rest).

    Attributes:
        index: the units there are.
        chosen: `(units,)`, True for those in the set.
        intervals: `(k, 2)` float64: the 95% interval of each selected unit's score over samples, in
            the units' order, as `Scores.intervals` gives it; NaN where it is not known, such as in
            what `|`, `&`, `-` and `~` give.

    Args:
        index: the units there are.
        chosen: `(units,)`, True for those in the set.
        intervals: `(k, 2)`; None for NaN.

    Raises:
        UnitError: if `chosen` is not one boolean per unit, or there is not one interval for each.
    """

    def __init__(
        self,
        index: UnitIndex,
        chosen: Bool[Tensor, "units"],
        *,
        intervals: Float[Tensor, "k 2"] | None = None,
    ) -> None:
        chosen = torch.as_tensor(chosen)
        if chosen.dtype != torch.bool or chosen.shape != (len(index),):
            raise UnitError(
                f"a selection needs one boolean for each of {len(index)} units: found "
                f"{chosen.dtype} of shape {tuple(chosen.shape)}"
            )
        self.index = index
        self.chosen = chosen.detach().cpu().clone()
        if intervals is None:
            intervals = torch.full((len(self), 2), math.nan)
        if intervals.shape != (len(self), 2):
            raise UnitError(
                f"the intervals have shape {tuple(intervals.shape)}: expected ({len(self)}, 2), "
                "one for each selected unit"
            )
        self.intervals = intervals.detach().cpu().to(torch.float64).clone()

    def __len__(self) -> int:
        """Count the units in the set."""
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[Unit]:
        """Give the units in the set, in the units' order."""
        return compress(self.index, self.chosen.tolist())

    def __getitem__(self, number: int) -> Unit:
        """Give one of the units in the set, counted in the units' order."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"unit {number} of {len(self)}")
        return self.index[int(self.chosen.nonzero().flatten()[number])]

    def __contains__(self, unit: object) -> bool:
        """Say whether a unit is in the set."""
        return any(own == unit for own in self)

    def to_dataframe(self) -> Any:
        """Give a pandas `DataFrame` of a row per unit in the set: `name` and `position`.

        Raises:
            ParamattrError: if pandas is not installed.
        """
        return frame({"name": [u.name for u in self], "position": [u.position for u in self]})

    def plot(self) -> Figure:
        """Draw how many units of each layer are in the set.

        Raises:
            ParamattrError: if matplotlib is not installed.
        """
        counts = self.by_layer()
        figure = empty_figure((7, max(3.0, 0.2 * len(counts) + 1.2)))
        bars(figure.subplots(), counts, repr(self))
        return figure

    def _repr_html_(self) -> str:
        rows = [[layer, str(count)] for layer, count in self.by_layer().items() if count]
        return table(repr(self), ["layer", "units"], rows)

    def __repr__(self) -> str:
        """Say how many units of how many."""
        return f"Selection({len(self)} of {len(self.index)} units)"

    def __eq__(self, other: object) -> bool:
        """Say whether two selections hold the same units of the same index."""
        if not isinstance(other, Selection):
            return NotImplemented
        return self.index == other.index and torch.equal(self.chosen, other.chosen)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Selection) -> Selection:
        """Take the units in either."""
        return Selection(self.index, self.chosen | self._of(other, "|"))

    def __and__(self, other: Selection) -> Selection:
        """Take the units in both."""
        return Selection(self.index, self.chosen & self._of(other, "&"))

    def __sub__(self, other: Selection) -> Selection:
        """Take the units in this one but not in the other."""
        return Selection(self.index, self.chosen & ~self._of(other, "-"))

    def __invert__(self) -> Selection:
        """Take the units that are not in the set."""
        return Selection(self.index, ~self.chosen)

    def mask(self, name: str) -> Bool[Tensor, "..."]:
        """Mark the entries of a parameter that lie in the selected units.

        Args:
            name: name of the parameter.

        Returns:
            A boolean tensor of the parameter's shape, on the CPU.

        Raises:
            UnitError: if there is no such parameter.
        """
        return self.index.mask(name, self.chosen)

    def overlap(self, other: Selection) -> float:
        """Give the share of this selection's units that are in the other too.

        `|A & B| / |A|` with this selection as `A`: with the filters found for an
        image as `A` and those of a degradation as `B` it is the overlap score.

        Returns:
            A number from 0 to 1.

        Raises:
            UnitError: if this selection is empty, or the two are of different units.

        Source: Xie et al. 2021, Eq. 8.
        """
        both = len(self & other)
        if not len(self):
            raise UnitError("an empty selection has no overlap: select at least one unit")
        return both / len(self)

    def by_layer(self) -> dict[str, int]:
        """Count the selected units of each layer, in the model's order.

        A unit that spans layers, such as an attention head, counts once, under its group.
        """
        return {path: int(self.chosen[own].sum()) for path, own in self.index.layers().items()}

    def depth(self) -> float:
        """Give the centre of mass over the layers: 0 is the first, 1 the last.

        Layers are counted evenly, in the model's order, among those that have units.

        Raises:
            UnitError: if the selection is empty.
        """
        if not len(self):
            raise UnitError("an empty selection has no depth: select at least one unit")
        counts = torch.tensor(list(self.by_layer().values()), dtype=torch.float64)
        places = torch.linspace(0, 1, len(counts), dtype=torch.float64)
        return float((counts * places).sum() / counts.sum())

    def save(self, path: str | Path) -> None:
        """Write the selection and its units to a safetensors file."""
        tensors, metadata = self.index.to_tensors()
        own = {"chosen": self.chosen, "intervals": self.intervals}
        save_state_dict(path, {**tensors, **own}, {"kind": "selection", **metadata})

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read a selection that `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken, or holds no selection.
        """
        expected = "a selection, written by Selection.save"
        tensors, metadata = load_kind(path, "selection", expected)
        with taken_apart(path, "a selection"):
            index = UnitIndex.from_tensors(tensors, metadata)
            return cls(index, tensors["chosen"], intervals=tensors.get("intervals"))

    def _of(self, other: Selection, operation: str) -> Tensor:
        if not isinstance(other, Selection):
            raise UnitError(
                f"{operation!r} takes two selections: found {an(type(other))}; take the "
                "top of scores first, scores.top(fraction=0.01)"
            )
        check_same_units(self.index, other.index, repr(operation))
        return other.chosen


def how_many(units: int, *, fraction: float | None = None, count: int | None = None) -> int:
    """Turn a share or a number of units into a number that there is.

    Args:
        units: number of units that there are.
        fraction: share of them, above 0 and up to 1, rounded to at least one unit.
        count: number of them instead, from 0 to all.

    Raises:
        UnitError: unless exactly one of the two is given, within its range.

    >>> how_many(200, fraction=0.01), how_many(3, fraction=0.01), how_many(3, count=0)
    (2, 1, 0)
    """
    if (fraction is None) == (count is None):
        raise UnitError(
            "top takes either a fraction or a count: write top(fraction=0.01) or top(count=50)"
        )
    if fraction is not None:
        if not isinstance(fraction, Real) or not 0 < fraction <= 1:
            raise UnitError(
                f"fraction is {fraction!r}: expected a share above 0 and up to 1, such as 0.01 "
                "for 1%"
            )
        return max(1, round(fraction * units))
    if isinstance(count, bool) or not isinstance(count, Integral) or not 0 <= count <= units:
        raise UnitError(
            f"count is {count!r}: expected a whole number from 0 to {units}, the number of "
            "units; a share of them is written fraction=0.01"
        )
    return int(count)

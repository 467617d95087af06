"""`Scores`: one number per unit."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError, UnitError
from paramattr.units.index import Unit, UnitIndex, check_same_units
from paramattr.units.selection import Selection
from paramattr.units.showing import draw_scores, frame, scores_as_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PER_UNIT = ("values", "signed", "standard_error")


class Scores:
    """One number per unit, higher for units that matter more.

    Scores of the same units, and numbers, combine by `+ - * /`.

    Attributes:
        index: the units.
        values: `(units,)` float64: the scores, such as the mean over samples of |A|.
        signed: `(units,)` float64: the mean over samples of A, NaN where it was not measured. It
            combines as the values do, under `+`, `-` and scaling by a number; else it is NaN.
        standard_error: `(units,)` float64, of `values` over samples; NaN where it is not known.
            Under `+` and `-` the squares add up, as for independent samples; scaling by a number
            scales it by the number's magnitude; else it is NaN.
        unassigned: the share, 0 to 1, of the attributed magnitude that lies in entries of no unit.
            Under `+` and `-` it is the larger of the two, which a sum of magnitudes does not
            exceed; under scaling it stays; else it is NaN.

    Args:
        index: the units.
        values: `(units,)`, finite.
        signed: `(units,)`; None for NaN.
        standard_error: `(units,)`; None for NaN.
        unassigned: the share in entries of no unit.

    Raises:
        UnitError: if the values are not one finite number per unit.
    """

    def __init__(
        self,
        index: UnitIndex,
        values: Float[Tensor, "units"],
        *,
        signed: Float[Tensor, "units"] | None = None,
        standard_error: Float[Tensor, "units"] | None = None,
        unassigned: float = 0.0,
    ) -> None:
        self.index = index
        self.values = _one_each(index, values, "scores")
        if not torch.isfinite(self.values).all():
            bad = int((~torch.isfinite(self.values)).nonzero()[0])
            raise UnitError(
                f"the score of unit {index[bad]} is {self.values[bad].item()}: expected a finite "
                "number; a division by scores that hold zeros gives such"
            )
        nothing = torch.full_like(self.values, math.nan)
        self.signed = nothing if signed is None else _one_each(index, signed, "signed scores")
        self.standard_error = (
            nothing.clone()
            if standard_error is None
            else _one_each(index, standard_error, "standard errors")
        )
        self.unassigned = float(unassigned)

    def __len__(self) -> int:
        """Count the units."""
        return len(self.index)

    __array_ufunc__ = None  # NumPy's numbers leave the arithmetic to us

    def __iter__(self) -> Iterator[tuple[Unit, float]]:
        """Give each unit with its score, in the units' order; `dict(scores)` looks scores up."""
        return zip(self.index, self.values.tolist(), strict=True)

    def __getitem__(self, number: int) -> tuple[Unit, float]:
        """Give the unit of a number, and its score.

        `scores[int(scores.rank()[0])]` is the unit that matters most.
        """
        return self.index[number], float(self.values[number])

    def to_dataframe(self) -> Any:
        """Give a pandas `DataFrame` of a row per unit, in the units' order.

        Columns are `name`, `position`, `score`, `signed` and `standard_error`.

        Raises:
            ParamattrError: if pandas is not installed.
        """
        units = list(self.index)
        return frame(
            {
                "name": [unit.name for unit in units],
                "position": [unit.position for unit in units],
                "score": self.values.numpy(),
                "signed": self.signed.numpy(),
                "standard_error": self.standard_error.numpy(),
            }
        )

    def plot(self) -> Figure:
        """Draw each layer's sum, and the units of the highest scores with their standard errors.

        Raises:
            ParamattrError: if matplotlib is not installed.
        """
        return draw_scores(self)

    def _repr_html_(self) -> str:
        return scores_as_html(self)

    def __repr__(self) -> str:
        """Say how many units, and their range."""
        low, high = float(self.values.min()), float(self.values.max())
        return f"Scores({len(self)} units, {low:.3g} to {high:.3g})"

    def __add__(self, other: Scores | float) -> Scores:
        """Add unit by unit."""
        return self._combined(other, operator.add)

    def __sub__(self, other: Scores | float) -> Scores:
        """Subtract unit by unit."""
        return self._combined(other, operator.sub)

    def __mul__(self, other: Scores | float) -> Scores:
        """Multiply unit by unit."""
        return self._combined(other, operator.mul)

    def __truediv__(self, other: Scores | float) -> Scores:
        """Divide unit by unit."""
        return self._combined(other, operator.truediv)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float) -> Scores:
        """Subtract from a number."""
        return self * -1.0 + other

    def __rtruediv__(self, other: float) -> Scores:
        """Divide a number by them, unit by unit."""
        if not isinstance(other, Real):
            return NotImplemented
        return Scores(self.index, float(other) / self.values, unassigned=math.nan)

    def __neg__(self) -> Scores:
        """Turn every sign."""
        return self * -1.0

    def rank(self) -> Int[Tensor, "units"]:
        """List the units' numbers from the highest score to the lowest; ties keep their order.

        `scores.index[scores.rank()[0]]` names the unit that matters most.
        """
        return torch.sort(self.values, descending=True, stable=True).indices

    def top(
        self, *, fraction: float | None = None, count: int | None = None, warn: bool = True
    ) -> Selection:
        """Select the units with the highest scores.

        Selections of the same scores are nested: a larger one holds the smaller.

        Args:
            fraction: share of all units, above 0 and up to 1, rounded to at least one unit.
            count: number of units instead, from 0 to all.
            warn: whether to warn of units that score nothing.

        Warns:
            UserWarning: if it takes units of score exactly zero, where no score is negative. Such
                units are chosen by their order alone. Contrasts, half of which is negative, are
                not warned of.

        Raises:
            UnitError: unless exactly one of the two is given, within its range.
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
            count = max(1, round(fraction * len(self)))
        if (
            isinstance(count, bool)
            or not isinstance(count, Integral)
            or not 0 <= count <= len(self)
        ):
            raise UnitError(
                f"count is {count!r}: expected a whole number from 0 to {len(self)}, the number of "
                "units; a share of them is written fraction=0.01"
            )
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[self.rank()[:count]] = True
        idle = int((self.values[chosen] == 0).sum())
        if warn and idle and bool((self.values >= 0).all()):
            warnings.warn(
                f"{idle} of the {int(count)} units taken have a score of exactly zero, and are "
                f"taken by their order alone: take at most top(count={int(count) - idle})",
                stacklevel=2,
            )
        return Selection(self.index, chosen)

    def by_layer(self) -> dict[str, float]:
        """Sum the scores of each layer's units, in the model's order.

        A unit that spans layers, such as an attention head, counts once, under its group: the sums
        add up to the sum of all scores.
        """
        return {path: float(self.values[own].sum()) for path, own in self.index.layers().items()}

    def save(self, path: str | Path) -> None:
        """Write the scores and their units to a safetensors file."""
        tensors, metadata = self.index.to_tensors()
        tensors |= {name: getattr(self, name) for name in _PER_UNIT}
        metadata |= {"kind": "scores", "unassigned": self.unassigned}
        save_state_dict(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read scores that `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken, or holds no scores.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "scores":
            raise CheckpointError(
                f"file {path} holds {metadata.get('kind') or 'something else'}: expected scores, "
                "written by Scores.save"
            )
        return cls(
            UnitIndex.from_tensors(tensors, metadata),
            tensors["values"],
            signed=tensors.get("signed"),
            standard_error=tensors.get("standard_error"),
            unassigned=metadata.get("unassigned", 0.0),
        )

    def _combined(
        self, other: Scores | float, operation: Callable[[Tensor, Tensor | float], Tensor]
    ) -> Scores:
        shifts = operation in (operator.add, operator.sub)
        if isinstance(other, Scores):
            check_same_units(self.index, other.index, f"{operation.__name__} of scores")
            values = operation(self.values, other.values)
            if not shifts:
                return Scores(self.index, values, unassigned=math.nan)
            return Scores(
                self.index,
                values,
                signed=operation(self.signed, other.signed),
                standard_error=torch.hypot(self.standard_error, other.standard_error),
                unassigned=_larger(self.unassigned, other.unassigned),
            )
        if isinstance(other, Real) or (isinstance(other, Tensor) and other.ndim == 0):
            number = float(other)
            error = self.standard_error if shifts else operation(self.standard_error, abs(number))
            return Scores(
                self.index,
                operation(self.values, number),
                signed=operation(self.signed, number),
                standard_error=error,
                unassigned=self.unassigned,
            )
        return NotImplemented


def _one_each(index: UnitIndex, values: Tensor, what: str) -> Float[Tensor, "units"]:
    values = torch.as_tensor(values)
    if values.shape != (len(index),):
        raise UnitError(
            f"{what} need one value for each of {len(index)} units: found shape "
            f"{tuple(values.shape)}"
        )
    return values.detach().cpu().to(torch.float64).clone()


def _larger(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)

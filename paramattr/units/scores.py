"""`Scores`: one number a unit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError, UnitError
from paramattr.units.index import UnitIndex, check_same_units
from paramattr.units.selection import Selection


class Scores:
    """One number a unit, higher for units that matter more.

    Scores of the same units, and numbers, combine by `+ - * /`.

    Args:
        index: the units.
        values: `(units,)`, finite.

    Raises:
        UnitError: if the values are not one finite number a unit.
    """

    def __init__(self, index: UnitIndex, values: Float[Tensor, "units"]) -> None:
        values = torch.as_tensor(values)
        if values.shape != (len(index),):
            raise UnitError(
                f"scores need one value for each of {len(index)} units: found shape "
                f"{tuple(values.shape)}"
            )
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).nonzero()[0])
            raise UnitError(
                f"the score of unit {index[bad]} is {values[bad].item()}: expected a finite "
                "number; a division by scores that hold zeros gives such"
            )
        self.index = index
        self.values = values.detach().cpu().to(torch.float64).clone()

    def __len__(self) -> int:
        """Count the units."""
        return len(self.index)

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
        return Scores(self.index, float(other) / self.values)

    def __neg__(self) -> Scores:
        """Turn every sign."""
        return self * -1.0

    def rank(self) -> Int[Tensor, "units"]:
        """List the units' numbers from the highest score to the lowest; ties keep their order.

        `scores.index[scores.rank()[0]]` names the unit that matters most.
        """
        return torch.sort(self.values, descending=True, stable=True).indices

    def top(self, *, fraction: float | None = None, count: int | None = None) -> Selection:
        """Select the units with the highest scores.

        Selections of the same scores are nested: a larger one holds the smaller.

        Args:
            fraction: share of all units, above 0 and up to 1, rounded to at least one unit.
            count: number of units instead, from 0 to all.

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
        return Selection(self.index, chosen)

    def by_layer(self) -> dict[str, float]:
        """Sum the scores of each layer's units, in the model's order."""
        return {path: float(self.values[own].sum()) for path, own in self.index.layers().items()}

    def save(self, path: str | Path) -> None:
        """Write the scores and their units to a safetensors file."""
        tensors, metadata = self.index.to_tensors()
        save_state_dict(path, {**tensors, "values": self.values}, {"kind": "scores", **metadata})

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
        return cls(UnitIndex.from_tensors(tensors, metadata), tensors["values"])

    def _combined(
        self, other: Scores | float, operation: Callable[[Tensor, Tensor | float], Tensor]
    ) -> Scores:
        if isinstance(other, Scores):
            check_same_units(self.index, other.index, f"{operation.__name__} of scores")
            return Scores(self.index, operation(self.values, other.values))
        if isinstance(other, Real) or (isinstance(other, Tensor) and other.ndim == 0):
            return Scores(self.index, operation(self.values, float(other)))
        return NotImplemented

"""`Scores`: one number per unit."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paramattr.checkpoints import taken_apart
from paramattr.errors import UnitError
from paramattr.errors import warn as warn_user
from paramattr.units.cost import Cost as Cost
from paramattr.units.covariances import Paired
from paramattr.units.fitting import one_each
from paramattr.units.index import Unit, UnitIndex, check_same_units
from paramattr.units.score_files import PER_UNIT, read_scores, write_scores
from paramattr.units.selection import Selection
from paramattr.units.shares import how_many
from paramattr.units.showing import draw_scores, scores_as_frame, scores_as_html
from paramattr.units.significance import check_level, discoveries, quantile, two_sided

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Scores:
    """One number per unit, higher for units that matter more.

    Scores of the same units, and numbers, combine by `+ - * /`.

    Attributes:
        index: the units.
        values: `(units,)` float64: the scores, such as the mean over samples of |A|.
        signed: `(units,)` float64: the mean over samples of A, NaN where it was not measured. It
            combines as the values do, under `+`, `-` and scaling by a number; else it is NaN.
        standard_error: `(units,)` float64, of `values` over samples; NaN where it is not known.
            Under `+` and `-` of scores that one call measured on several conditions, it takes into
            account that their samples are paired by their numbers; of others the squares add up,
            as for independent samples. Scaling by a number scales it by the number's magnitude;
            else it is NaN.
        samples: of how many samples the values are a mean, 0 where that is not known. Under `+` and
            `-` it is the smaller of the two.
        unassigned: the share, 0 to 1, of the attributed magnitude that lies in entries of no unit.
            Under `+` and `-` it is the larger of the two, which a sum of magnitudes does not
            exceed; under scaling it stays; else it is NaN.
        spent: what the call that measured them took, without what an interrupted run had done
            before; else None. It is not saved: files of equal scores are equal.
        residual: what the nodes missed: over the first samples of the condition (at most eight),
            the mean of |sum of all attributions - L(baseline) + L(target)| over the mean of
            |L(baseline) - L(target)|. It counts all that moves, reported or not. NaN for methods
            that are not complete. Under `+` and `-` it is the larger of the two; under scaling by
            a number it stays; else it is NaN.
        agreement: the estimated chance-corrected overlap of the top share with that of the
            population, where `until` asked for it; else NaN. With several conditions it is that of
            the contrast of these scores with the other conditions' mean.

    Args:
        index: the units.
        values: `(units,)`, finite.
        signed: `(units,)`; None for NaN.
        standard_error: `(units,)`; None for NaN.
        unassigned: the share in entries of no unit.
        samples: how many samples; 0 for not known.
        paired: what a call on several conditions knows of them together.
        residual: what the nodes missed; NaN for not known.

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
        samples: int = 0,
        paired: Paired | None = None,
        residual: float = math.nan,
    ) -> None:
        self.index = index
        self.values = one_each(index, values, "scores")
        if not torch.isfinite(self.values).all():
            bad = int((~torch.isfinite(self.values)).nonzero()[0])
            raise UnitError(
                f"the score of unit {index[bad]} is {self.values[bad].item()}: expected a finite "
                "number; a division by scores that hold zeros gives such"
            )
        nothing = torch.full_like(self.values, math.nan)
        self.signed = nothing if signed is None else one_each(index, signed, "signed scores")
        self.standard_error = (
            nothing.clone()
            if standard_error is None
            else one_each(index, standard_error, "standard errors")
        )
        self.unassigned, self.samples, self._paired = float(unassigned), int(samples), paired
        self.residual = float(residual)
        self.spent: Cost | None = None
        self.agreement = math.nan

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
        return scores_as_frame(self)

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
        size = how_many(len(self), fraction=fraction, count=count)
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[self.rank()[:size]] = True
        idle = int((self.values[chosen] == 0).sum())
        if warn and idle and bool((self.values >= 0).all()):
            warn_user(
                f"{idle} of the {size} units taken have a score of exactly zero, and are "
                f"taken by their order alone: take at most top(count={size - idle})"
            )
        return Selection(self.index, chosen, intervals=self.intervals()[chosen])

    def significant(self, level: float = 0.05) -> Selection:
        """Select the units whose score differs from zero over samples.

        Of each unit, Student's t test of score over standard error, with `samples - 1` degrees of
        freedom; of all units, as many as keep the expected share of false ones among those named
        below the level (Benjamini and Hochberg). Take it of a contrast: a mean of magnitudes is
        above zero wherever a unit does anything at all.

        Many units of a contrast can differ from zero by little. `scores.significant() &
        scores.top(fraction=0.01)` are those of the first 1% whose lead is no chance.

        Args:
            level: of false discoveries, above 0 and below 1.

        Returns:
            The units, above zero or below it; those whose error is not known are not among them.

        Raises:
            UnitError: for another level, or where no unit's error is known: scores of one sample,
                and scores that are no mean over samples.

        Source: Student 1908; Benjamini and Hochberg 1995, Eq. 1.
        """
        check_level(level)
        if self.samples < 2 or bool(self.standard_error.isnan().all()):
            raise UnitError(
                f"the standard errors of these scores are not known (samples: {self.samples}): "
                "expected means over at least 2 samples, such as those of FAIG.score, or their "
                "contrast"
            )
        chances = two_sided(self.values / self.standard_error, self.samples - 1)
        chosen = discoveries(chances, level)
        return Selection(self.index, chosen, intervals=self.intervals()[chosen])

    def intervals(self, level: float = 0.95) -> Float[Tensor, "units 2"]:
        """Give each unit's interval of its score over samples, by Student's t.

            S_u ± t SE_u

        Each holds for its unit alone: of units that were chosen since they scored high, the scores
        are too high on average.

        Args:
            level: of confidence, above 0 and below 1.

        Returns:
            The lower and upper ends, `(units, 2)`; NaN where the error is not known.

        Raises:
            UnitError: for another level.
        """
        check_level(level)
        if self.samples < 2:
            return torch.full((len(self), 2), math.nan, dtype=torch.float64)
        reach = quantile(1 - level, self.samples - 1) * self.standard_error
        return torch.stack([self.values - reach, self.values + reach], 1)

    def by_layer(self) -> dict[str, float]:
        """Sum the scores of each layer's units, in the model's order.

        A unit that spans layers, such as an attention head, counts once, under its group: the sums
        add up to the sum of all scores.
        """
        return {path: float(self.values[own].sum()) for path, own in self.index.layers().items()}

    def save(self, path: str | Path) -> None:
        """Write the scores and their units to a safetensors file."""
        numbers = {name: getattr(self, name) for name in PER_UNIT}
        notes = {
            "unassigned": self.unassigned,
            "samples": self.samples,
            "agreement": None if math.isnan(self.agreement) else self.agreement,
            "residual": None if math.isnan(self.residual) else self.residual,
        }
        write_scores(path, self.index, numbers, notes, self._paired)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read scores that `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken, or holds no scores.
        """
        with taken_apart(path, "scores"):
            arguments = read_scores(path)
            agreement = arguments.pop("agreement")
            scores = cls(**arguments)
            scores.agreement = math.nan if agreement is None else agreement
            return scores

    def _combined(
        self, other: Scores | float, operation: Callable[[Tensor, Tensor | float], Tensor]
    ) -> Scores:
        shifts = operation in (operator.add, operator.sub)
        if isinstance(other, Scores):
            check_same_units(self.index, other.index, f"{operation.__name__} of scores")
            values = operation(self.values, other.values)
            if not shifts:
                return Scores(self.index, values, unassigned=math.nan)
            sign, paired = 1.0 if operation is operator.add else -1.0, None
            error = torch.hypot(self.standard_error, other.standard_error)
            if self._paired is not None:
                paired = self._paired.plus(other._paired, sign)
                if paired is not None:
                    error = torch.where(error.isnan(), error, paired.error())
            return Scores(
                self.index,
                values,
                signed=operation(self.signed, other.signed),
                standard_error=error,
                unassigned=_larger(self.unassigned, other.unassigned),
                samples=min(self.samples, other.samples),
                paired=paired,
                residual=_larger(self.residual, other.residual),
            )
        if isinstance(other, Real) or (isinstance(other, Tensor) and other.ndim == 0):
            number = float(other)
            error, paired = self.standard_error, self._paired
            if not shifts:
                error = operation(error, abs(number))
                factor = 1 / number if operation is operator.truediv and number else number
                paired = None if paired is None else paired.scaled(factor)
            return Scores(
                self.index,
                operation(self.values, number),
                signed=operation(self.signed, number),
                standard_error=error,
                unassigned=self.unassigned,
                samples=self.samples,
                paired=paired,
                residual=self.residual,
            )
        return NotImplemented


def _larger(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)

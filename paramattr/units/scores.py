"""`Scores`: one number per unit."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paramattr.cost import Cost as Cost
from paramattr.errors import UnitError
from paramattr.errors import warn as warn_user
from paramattr.figures import COLOURS, empty_figure
from paramattr.files.reading import load_kind, save_state_dict, taken_apart
from paramattr.units.index import Unit, UnitIndex, check_same_units
from paramattr.units.selection import Selection, how_many
from paramattr.units.showing import bars, frame, name_of, table
from paramattr.units.significance import Paired, check_level, discoveries, quantile, two_sided

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = ("magnitude", "sign")
"""The means that scores rank by."""
PER_UNIT = ("values", "signed", "standard_error", "signed_error")
"""Attributes that a file holds, one number per unit each."""
SHOWN = 10
"""Units that HTML names; a figure names twice as many."""
LAYERS = 40
"""Layers that a figure names."""


class Scores:
    """One number per unit, higher for units that matter more.

    Scores of the same units, and numbers, combine by `+ - * /`. `by("sign")` ranks by `signed`.

    Attributes:
        index: the units.
        values: `(units,)` float64: the scores, such as the mean over samples of |A|.
        signed: `(units,)` float64: the mean over samples of A, NaN where it was not measured. It
            combines as the values do, under `+`, `-` and scaling by a number; else it is NaN.
        signed_error: `(units,)` float64, the standard error of `signed`: as `standard_error`.
        standard_error: `(units,)` float64, of `values` over samples; NaN where it is not known.
            Under `+` and `-` of scores that one call measured on several conditions, it takes into
            account that their samples are paired by their numbers; of others the squares add up,
            as for independent samples. Scaling by a number scales it by the number's magnitude;
            else it is NaN.
        samples: number of samples that the values are a mean over, 0 where that is not known. Under
            `+` and `-` it is the smaller of the two.
        unassigned: the share, 0 to 1, of the attributed magnitude that lies in entries of no unit.
            Under `+` and `-` it is the larger of the two, which a sum of magnitudes does not
            exceed; under scaling it stays; else it is NaN.
        spent: the cost of the call that measured them, without that of an interrupted run before;
            else None. It is not saved: files of equal scores are equal.
        residual: the share that the nodes missed: over the first samples of the condition (at most
            eight), the mean of |sum of all attributions - L(baseline) + L(target)| over the mean of
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
        signed_error: `(units,)`; None for NaN.
        unassigned: the share in entries of no unit.
        samples: number of samples; 0 for not known.
        paired: covariances of the conditions that one call measured; None for not known.
        residual: the share that the nodes missed; NaN for not known.

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
        signed_error: Float[Tensor, "units"] | None = None,
        unassigned: float = 0.0,
        samples: int = 0,
        paired: Paired | None = None,
        residual: float = math.nan,
    ) -> None:
        self.index = index
        self.values = _one_each(index, values, "scores")
        if not torch.isfinite(self.values).all():
            bad = int((~torch.isfinite(self.values)).nonzero()[0])
            raise UnitError(
                f"the score of unit {index[bad]} is {self.values[bad].item()}: expected a finite "
                "number; a division by scores that hold zeros gives such"
            )

        self.signed = _one_each(index, signed, "signed scores")
        self.standard_error = _one_each(index, standard_error, "standard errors")
        self.signed_error = _one_each(index, signed_error, "standard errors of signed scores")
        self._magnitudes: Scores | None = None
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

    def by(self, rank: str) -> Scores:
        """Rank by the mean attribution, or by its mean magnitude.

            "magnitude":  S_u = mean_x Σ_i |A_i(x)|        "sign":  S_u = mean_x Σ_i A_i(x)

        By sign, `values` is `signed` and `standard_error` its own: a unit that raises the objective
        on some samples and lowers it on others comes to little. Sums, contrasts and scaling may
        come before or after: `contrast(a, b).by("sign")` is `contrast(a.by("sign"),
        b.by("sign"))`, and its errors are paired where those of the magnitudes are.

        Args:
            rank: `"magnitude"`, the paper's, or `"sign"`.

        Returns:
            Scores of the same units. The share `unassigned` and the `residual` stay those of the
            call that measured them. `by("magnitude")` of scores by sign gives the magnitudes back.

        Raises:
            UnitError: for another rank, and where the sign was not measured.

        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> units = UnitIndex.of(model, "scalar")
        >>> scores = Scores(units, torch.tensor([3.0, 2.0]), signed=torch.tensor([-1.0, 2.0]))
        >>> scores.rank().tolist(), scores.by("sign").rank().tolist()
        ([0, 1], [1, 0])
        """
        if rank not in RANKS:
            raise UnitError(f"rank is {rank!r}: expected {' or '.join(map(repr, RANKS))}")
        magnitudes = self if self._magnitudes is None else self._magnitudes
        if rank == "magnitude":
            return magnitudes
        unknown = self.signed.isnan()
        if bool(unknown.all()) or bool((unknown & (magnitudes.values != 0)).any()):
            raise UnitError(
                f"{int(unknown.sum())} of the {len(self)} units have no sign: expected scores that "
                "hold the mean attribution beside its magnitude (`signed`), such as those of "
                "FAIG.score, their sums and contrasts"
            )
        found = Scores(
            self.index,
            self.signed.nan_to_num(nan=0.0),
            signed=self.signed,
            standard_error=self.signed_error,
            signed_error=self.signed_error,
            unassigned=self.unassigned,
            samples=self.samples,
            residual=self.residual,
        )
        found.spent, found._magnitudes = self.spent, magnitudes
        return found

    def to_dataframe(self) -> Any:
        """Give a pandas `DataFrame` of a row per unit, in the units' order.

        Columns are `name`, `position`, `score`, `signed` and `standard_error`.

        Raises:
            ParamattrError: if pandas is not installed.
        """
        return frame(
            {
                "name": [unit.name for unit in self.index],
                "position": [unit.position for unit in self.index],
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
        sums = self.by_layer()
        first = set(sorted(sums, key=lambda layer: -abs(sums[layer]))[:LAYERS])
        shown = {layer: value for layer, value in sums.items() if layer in first}
        figure = empty_figure((11, max(3.5, 0.2 * len(shown) + 1.5)))
        left, right = figure.subplots(1, 2)
        title = "sum by layer" if len(shown) == len(sums) else f"sum by layer, largest {LAYERS}"
        bars(left, shown, title)
        order = self.rank()[: 2 * SHOWN]
        values = {name_of(self.index[n]): float(self.values[n]) for n in order.tolist()}
        errors = self.standard_error[order]
        known = None if not len(order) or bool(errors.isnan().any()) else errors.tolist()
        title = f"first {len(order)} of {len(self)} units"
        bars(right, values, title, colour=COLOURS[1], errors=known)
        return figure

    def _repr_html_(self) -> str:
        rows = []
        for number in self.rank()[:SHOWN].tolist():
            numbers = [float(of[number]) for of in (self.values, self.signed, self.standard_error)]
            cells = ["" if math.isnan(value) else f"{value:.4g}" for value in numbers]
            rows.append([name_of(self.index[number]), *cells])
        return table(repr(self), ["unit", "score", "signed", "standard error"], rows)

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
        below the level (Benjamini and Hochberg). Take it of a contrast, or by sign: a mean of
        magnitudes is above zero wherever a unit does anything at all.

        Many units of a contrast can differ from zero by little. `scores.significant() &
        scores.top(fraction=0.01)` are those of the first 1% whose lead is no chance.

        Args:
            level: expected share of false discoveries, above 0 and below 1.

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
            level: level of confidence, above 0 and below 1.

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

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give tensors and JSON metadata from which `from_tensors` restores the scores."""
        own = self.by("magnitude")  # a file holds both, and which of them ranks
        tensors = {name: getattr(own, name) for name in PER_UNIT}
        metadata: dict[str, Any] = {
            "unassigned": own.unassigned,
            "samples": own.samples,
            "agreement": None if math.isnan(own.agreement) else own.agreement,
            "residual": None if math.isnan(own.residual) else own.residual,
        }
        if own is not self:
            metadata["rank"] = "sign"
        if own._paired is not None:
            tensors |= own._paired.to_tensors()
            metadata["weights"] = own._paired.weights
        return tensors, metadata

    @classmethod
    def from_tensors(
        cls, index: UnitIndex, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> Scores:
        """Restore scores of these units from the result of `to_tensors`.

        Raises:
            UnitError: if they do not fit together.
        """
        for name in PER_UNIT:
            if name in tensors and not tensors[name].is_floating_point():
                raise UnitError(f"{name} is {tensors[name].dtype}: expected floating-point numbers")
        paired = None
        if "covariances" in tensors:
            weights = [float(weight) for weight in metadata["weights"]]
            paired = Paired.from_tensors(tensors, weights, len(index))
        residual, agreement = metadata.get("residual"), metadata.get("agreement")
        scores = cls(
            index,
            tensors["values"],
            signed=tensors.get("signed"),
            standard_error=tensors.get("standard_error"),
            signed_error=tensors.get("signed_error"),
            unassigned=metadata.get("unassigned", 0.0),
            samples=metadata.get("samples", 0),
            paired=paired,
            residual=math.nan if residual is None else residual,
        )
        scores.agreement = math.nan if agreement is None else agreement
        return scores.by(metadata.get("rank", "magnitude"))

    def save(self, path: str | Path) -> None:
        """Write the scores and their units to a safetensors file."""
        tensors, metadata = self.to_tensors()
        of_units, about = self.index.to_tensors()
        save_state_dict(path, {**of_units, **tensors}, {**about, "kind": "scores", **metadata})

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read scores that `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken, or holds no scores.
        """
        tensors, metadata = load_kind(path, "scores", "scores, written by Scores.save")
        with taken_apart(path, "scores"):
            index = UnitIndex.from_tensors(tensors, metadata)
            return cls.from_tensors(index, tensors, metadata)

    def _combined(
        self, other: Scores | float, operation: Callable[[Tensor, Tensor | float], Tensor]
    ) -> Scores:
        if isinstance(other, Scores):
            check_same_units(self.index, other.index, f"{operation.__name__} of scores")
            if operation not in (operator.add, operator.sub):
                values = operation(self.values, other.values)
                return Scores(self.index, values, unassigned=math.nan)
            if self._magnitudes is not None or other._magnitudes is not None:
                one, two = _of_one_rank(self, other)
                return one._combined(two, operation).by("sign")
            return self._plus(other, operation)
        if isinstance(other, Real) or (isinstance(other, Tensor) and other.ndim == 0):
            if self._magnitudes is not None:
                return self._magnitudes._combined(other, operation).by("sign")
            return self._with_number(float(other), operation)
        return NotImplemented

    def _plus(self, other: Scores, operation: Callable[[Tensor, Tensor | float], Tensor]) -> Scores:
        errors = [
            torch.hypot(self.standard_error, other.standard_error),
            torch.hypot(self.signed_error, other.signed_error),
        ]
        paired = None
        if self._paired is not None:
            paired = self._paired.plus(other._paired, 1.0 if operation is operator.add else -1.0)
        if paired is not None:
            errors = [
                torch.where(error.isnan(), error, paired.error(signed=signed))
                for error, signed in zip(errors, (False, True), strict=True)
            ]
        return Scores(
            self.index,
            operation(self.values, other.values),
            signed=operation(self.signed, other.signed),
            standard_error=errors[0],
            signed_error=errors[1],
            unassigned=_larger(self.unassigned, other.unassigned),
            samples=min(self.samples, other.samples),
            paired=paired,
            residual=_larger(self.residual, other.residual),
        )

    def _with_number(
        self, number: float, operation: Callable[[Tensor, Tensor | float], Tensor]
    ) -> Scores:
        errors, paired = [self.standard_error, self.signed_error], self._paired
        if operation in (operator.mul, operator.truediv):
            errors = [operation(error, abs(number)) for error in errors]
            factor = 1 / number if operation is operator.truediv and number else number
            paired = None if paired is None else paired.scaled(factor)
        return Scores(
            self.index,
            operation(self.values, number),
            signed=operation(self.signed, number),
            standard_error=errors[0],
            signed_error=errors[1],
            unassigned=self.unassigned,
            samples=self.samples,
            paired=paired,
            residual=self.residual,
        )


def _of_one_rank(one: Scores, other: Scores) -> tuple[Scores, Scores]:
    """Give the magnitudes of two scores by sign.

    Raises:
        UnitError: where one ranks by sign and the other does not.
    """
    if one._magnitudes is None or other._magnitudes is None:
        raise UnitError(
            "of two scores one ranks by sign, the other does not: expected both alike; write "
            '.by("sign") of both, or .by("magnitude")'
        )
    return one._magnitudes, other._magnitudes


def _larger(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _one_each(index: UnitIndex, values: Tensor | None, what: str) -> Float[Tensor, "units"]:
    """Copy one number per unit to the CPU, in float64; NaN for those of None.

    Raises:
        UnitError: for any other shape.
    """
    if values is None:
        return torch.full((len(index),), math.nan, dtype=torch.float64)
    values = torch.as_tensor(values)
    if values.shape != (len(index),):
        raise UnitError(
            f"{what} need one value for each of {len(index)} units: found shape "
            f"{tuple(values.shape)}"
        )
    return values.detach().cpu().to(torch.float64).clone()

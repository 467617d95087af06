"""How each unit's score responds to a severity: a curve per unit, and a regression."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from numbers import Real
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError, an
from paramattr.units.index import check_same_units
from paramattr.units.scores import Scores


class Response:
    """The scores of the same samples at several severities, and their regression, unit by unit.

        S_u(s) ≈ S_u(mean) + slope_u (s - mean),
        slope_u = Σ_s (s - mean) S_u(s) / Σ_s (s - mean)²

    The slope of a mean is the mean of each sample's slope. So its standard error, and with it
    `slope.intervals()` and `slope.significant()`, is over samples, paired by their numbers, where
    one call of `score` measured all severities; of separate calls it takes the samples for
    independent, which is wider where the samples are the same.

    Args:
        scores: severity to scores of the same units; at least two severities.

    Attributes:
        index: the units.
        severities: `(levels,)` float64, in increasing order.
        values: `(levels, units)` float64: the curve of each unit.
        standard_error: `(levels, units)` float64, of the values over samples; NaN where unknown.

    Raises:
        UnitError: for fewer than two severities, one that is no number, or different units.

    >>> from paramattr import UnitIndex
    >>> index = UnitIndex.of(torch.nn.Linear(2, 1, bias=False), "scalar")
    >>> weak, strong = torch.tensor([1.0, 5.0]), torch.tensor([7.0, 5.0])
    >>> response = Response({1.0: Scores(index, weak), 3.0: Scores(index, strong)})
    >>> response.slope.values.tolist()
    [3.0, 0.0]
    """

    def __init__(self, scores: Mapping[float, Scores]) -> None:
        for severity, own in scores.items():
            number = isinstance(severity, Real) and not isinstance(severity, bool)
            if not number or not float("-inf") < severity < float("inf"):
                raise UnitError(f"severity {severity!r} is no finite number")
            if not isinstance(own, Scores):
                raise UnitError(
                    f"severity {severity:g} has {an(type(own))}: expected Scores, such as "
                    "those of FAIG.score on the samples at this severity"
                )
        if len(scores) < 2:
            raise UnitError(f"there are {len(scores)} severities: expected at least two")
        ordered = sorted(scores)
        self._scores = [scores[severity] for severity in ordered]
        first = self._scores[0]
        for other in self._scores[1:]:
            check_same_units(first.index, other.index, "the response to a severity")
        self.index = first.index
        self.severities: Float[Tensor, "levels"] = torch.tensor(ordered, dtype=torch.float64)
        self.values: Float[Tensor, "levels units"] = torch.stack([s.values for s in self._scores])
        self.standard_error: Float[Tensor, "levels units"] = torch.stack(
            [s.standard_error for s in self._scores]
        )

    @property
    def slope(self) -> Scores:
        """The change of each unit's score per unit of severity, by least squares over levels."""
        off = self.severities - self.severities.mean()
        weights = (off / off.square().sum()).tolist()
        return reduce(
            add, (own * weight for own, weight in zip(self._scores, weights, strict=True))
        )

    @property
    def middle(self) -> Scores:
        """The score of each unit at the mean severity: where the line of the regression lies."""
        return reduce(add, self._scores) / len(self._scores)

    @property
    def explained(self) -> Float[Tensor, "units"]:
        """The share of each unit's variance over the levels that the line explains, from 0 to 1.

        Below 1 the curve bends. NaN for a unit whose score does not vary.
        """
        off = self.values - self.values.mean(0)
        steps = (self.severities - self.severities.mean())[:, None]
        line = steps * self.slope.values
        total = off.square().sum(0)
        return torch.where(total > 0, line.square().sum(0) / total, torch.nan)

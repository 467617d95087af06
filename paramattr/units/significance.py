"""Errors of scores: shared by conditions, and what differs from chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paramattr.errors import UnitError


class Covariances:
    """The covariances of several conditions' mean scores, unit by unit.

        cov_u(c, d) = Σ_x (m_u(x_c) - S_u,c) (m_u(x_d) - S_u,d) / (n (n - 1))

    where x_c and x_d are the samples of one number, such as one photograph in two conditions.

    Args:
        conditions: number of conditions.
        of_pairs: `(pairs, units)`, in the order of `combinations_with_replacement(range(c), 2)`.
        of_signed: the same of the signed sums in place of the magnitudes; None if not known.
    """

    def __init__(
        self,
        conditions: int,
        of_pairs: Float[Tensor, "pairs units"],
        of_signed: Float[Tensor, "pairs units"] | None = None,
    ) -> None:
        self.conditions, self.of_pairs, self.of_signed = conditions, of_pairs, of_signed

    def __eq__(self, other: object) -> bool:
        """Say whether two are of the same samples."""
        if not isinstance(other, Covariances):
            return NotImplemented
        # One pass makes both, so magnitudes alone tell samples apart: also in files without signs.
        return self is other or (
            self.conditions == other.conditions and torch.equal(self.of_pairs, other.of_pairs)
        )

    __hash__ = None  # type: ignore[assignment]

    def error(self, weights: Sequence[float], *, signed: bool = False) -> Float[Tensor, "units"]:
        """Give the standard error of Σ_c weight_c S_c.

        sqrt( Σ_c Σ_d weight_c weight_d cov(c, d) )

        Args:
            weights: weight of each condition.
            signed: whether it is that of the signed sums, in place of the magnitudes; NaN if they
                are not known.
        """
        of_pairs = self.of_signed if signed else self.of_pairs
        if of_pairs is None:
            return torch.full(self.of_pairs.shape[1:], torch.nan, dtype=torch.float64)
        variance = torch.zeros(of_pairs.shape[1], dtype=torch.float64)
        pairs = combinations_with_replacement(range(self.conditions), 2)
        for (one, other), covariance in zip(pairs, of_pairs, strict=True):
            twice = 1 if one == other else 2
            variance += twice * weights[one] * weights[other] * covariance
        return variance.clamp(min=0).sqrt()


class Paired:
    """A weighted sum of conditions' scores that were measured together.

    Args:
        covariances: covariances of the conditions.
        weights: weight of each condition in the sum.
    """

    def __init__(self, covariances: Covariances, weights: Sequence[float]) -> None:
        self.covariances, self.weights = covariances, tuple(weights)

    def error(self, *, signed: bool = False) -> Float[Tensor, "units"]:
        """Give the standard error of the sum: of magnitudes, or of signed attributions."""
        return self.covariances.error(self.weights, signed=signed)

    def to_tensors(self) -> dict[str, Tensor]:
        """Give tensors from which, with the weights, `from_tensors` restores the sum."""
        tensors = {"covariances": self.covariances.of_pairs}
        if self.covariances.of_signed is not None:
            tensors["signed_covariances"] = self.covariances.of_signed
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], weights: Sequence[float], units: int
    ) -> Paired:
        """Restore a sum over so many units from its weights and the result of `to_tensors`.

        Raises:
            UnitError: if they do not fit together.
        """
        pairs = len(weights) * (len(weights) + 1) // 2
        of_pairs, of_signed = tensors["covariances"], tensors.get("signed_covariances")
        for table in (of_pairs, of_signed):
            if table is not None and table.shape != (pairs, units):
                raise UnitError(
                    f"the covariances have shape {tuple(table.shape)}: expected ({pairs}, {units})"
                )
        return cls(Covariances(len(weights), of_pairs, of_signed), weights)

    def scaled(self, factor: float) -> Paired:
        """Multiply the sum by a number."""
        return Paired(self.covariances, [factor * weight for weight in self.weights])

    def plus(self, other: Paired | None, sign: float) -> Paired | None:
        """Add a sum of the same conditions, or subtract it; None if it is of others."""
        if other is None or self.covariances != other.covariances:
            return None
        pairs = zip(self.weights, other.weights, strict=True)
        return Paired(self.covariances, [one + sign * two for one, two in pairs])


TERMS = 300
"""Most terms of the continued fraction; it converges in far fewer (O(sqrt(max(a, b))))."""
TINY = 1e-300


def check_level(level: float) -> None:
    """Refuse a level that is no share.

    Raises:
        UnitError: unless it is above 0 and below 1.
    """
    if isinstance(level, bool) or not isinstance(level, Real) or not 0 < level < 1:
        raise UnitError(f"level is {level!r}: expected a number above 0 and below 1, such as 0.05")


def two_sided(t: Float[Tensor, "units"], degrees: int) -> Float[Tensor, "units"]:
    """Give the chance that Student's t lies at least as far from zero, on either side.

        p = I_x(degrees / 2, 1 / 2),    x = degrees / (degrees + t²)

    with I the regularised incomplete beta function, by its continued fraction.

    Args:
        t: the statistic of each unit; NaN counts as zero, so that p is 1.
        degrees: degrees of freedom, at least 1.

    Source: Abramowitz and Stegun 1964, 26.7.1 with 26.5.2 and 26.5.8.

    >>> two_sided(torch.tensor([0.0, 12.706]), 1)
    tensor([1.0000, 0.0500], dtype=torch.float64)
    """
    squared = t.double().nan_to_num(nan=0.0, posinf=TINY**-0.5, neginf=TINY**-0.5).square()
    x, rest = degrees / (degrees + squared), squared / (degrees + squared)
    half = degrees / 2
    front = torch.exp(
        math.lgamma(half + 0.5)
        - math.lgamma(half)
        - math.lgamma(0.5)
        + half * x.clamp(min=TINY).log()
        + 0.5 * rest.clamp(min=TINY).log()
    )
    is_tail = x < (half + 1) / (half + 2.5)
    tail = front * _fraction(half, 0.5, torch.where(is_tail, x, 0.0)) / half
    middle = front * _fraction(0.5, half, torch.where(is_tail, 0.0, rest)) / 0.5
    return torch.where(is_tail, tail, 1 - middle).clamp(0, 1)


@lru_cache
def quantile(level: float, degrees: int) -> float:
    """Give the t that Student's t exceeds on either side with a chance of `level`.

    >>> round(quantile(0.05, 10), 3)
    2.228
    """
    low, high = 0.0, 2.0
    while float(two_sided(torch.tensor([high]), degrees)) > level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        above = float(two_sided(torch.tensor([middle], dtype=torch.float64), degrees)) > level
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2


def discoveries(chances: Float[Tensor, "units"], level: float) -> Bool[Tensor, "units"]:
    """Reject as many hypotheses as keep the expected share of false ones among them below a level.

    With the chances sorted, p_(1) <= ... <= p_(m), the k smallest are rejected, for the largest k
    with p_(k) <= k / m * level. The control holds for chances that are independent or depend
    positively on each other.

    Args:
        chances: p-value of each unit.
        level: expected share of false discoveries, above 0 and below 1.

    Source: Benjamini and Hochberg 1995, "Controlling the false discovery rate", Eq. 1; Benjamini
    and Yekutieli 2001 for positive dependence.

    >>> discoveries(torch.tensor([0.04, 0.001, 0.5]), 0.05).tolist()
    [False, True, False]
    """
    order = chances.sort().indices
    ranks = torch.arange(1, len(chances) + 1, dtype=torch.float64)
    passed = (chances[order] <= ranks / len(chances) * level).nonzero()
    found = torch.zeros(len(chances), dtype=torch.bool)
    if len(passed):
        found[order[: int(passed[-1]) + 1]] = True
    return found


def _fraction(a: float, b: float, x: Tensor) -> Tensor:
    # The continued fraction of the incomplete beta function, by Lentz's method as modified by
    # Thompson and Barnett 1986: 1 + d1/(1 + d2/(1 + ...)), inverted.
    def safe(value: Tensor) -> Tensor:
        return torch.where(value.abs() < TINY, TINY, value)

    above = torch.ones_like(x)
    below = 1 / safe(1 - (a + b) * x / (a + 1))
    found = below.clone()
    for m in range(1, TERMS + 1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = found
        for term in (even, odd):
            below = 1 / safe(1 + term * below)
            above = safe(1 + term / above)
            found = found * below * above
        if bool(((found - before).abs() <= 1e-15 * found.abs()).all()):
            break
    return found

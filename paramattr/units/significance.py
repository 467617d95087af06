"""Significance of scores over samples: Student's t, and control of false discoveries."""

from __future__ import annotations

import math
from functools import lru_cache
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paramattr.errors import UnitError

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

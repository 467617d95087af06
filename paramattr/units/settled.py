"""How well a ranking from some samples agrees with the ranking of all such samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError
from paramattr.units.shares import how_many

HALVINGS = 60
"""Steps of bisection: more than a float64 can tell apart."""
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def population_agreement(
    means: Float[Tensor, "groups units"], *, fraction: float = 0.01, others: float = np.inf
) -> float:
    """Estimate the overlap of the mean's top units with those of the population's mean.

    The groups are parted into two halves in every way, and the chance-corrected overlaps of the
    halves' top units are averaged. Two halves agree less than a half agrees with the whole
    population, since both err. So the overlap is read as a correlation: that of two standard normal
    variables of which each is above the same threshold as often as a unit is in the top.

        overlap(ρ) = 1 / (2π p (1 - p)) ∫_0^{asin ρ} exp(-t² / (1 + sin θ)) dθ,    Φ(t) = 1 - p

    From the halves' correlation ρ follow that of two means of all samples, 2ρ / (1 + ρ), and that
    of one with the population, its square root.

    Args:
        means: the mean score of each unit over each group of as many samples; an even number of
            groups, at least 2.
        fraction: share of the units in the top sets, above 0 and up to 1.
        others: how many times as many other samples the mean is compared with; all there are by
            default.

    Raises:
        UnitError: for another fraction or number of groups.

    Source: Spearman 1910 and Brown 1910 (a test of twice the length); Pearson 1900 (the correlation
    behind two yes-or-no answers).

    >>> population_agreement(torch.arange(100.0).expand(4, 100), fraction=0.1)
    1.0
    """
    groups, units = means.shape
    if groups < 2 or groups % 2:
        raise UnitError(f"there are {groups} groups: expected an even number of at least 2")
    count = how_many(units, fraction=fraction)
    if count == units:
        return 1.0
    halves = overlap_of_halves(means, count)
    half = _correlation(halves, count / units)
    ratio = 2 * half / (1 - half) if half < 1 else np.inf  # signal over noise of the whole mean
    if not np.isfinite(ratio):
        return 1.0
    whole = ratio / (1 + ratio)
    there = 1.0 if others == np.inf else others * ratio / (1 + others * ratio)
    return overlap_of(float(np.sqrt(whole * there)), count / units)


def overlap_of_halves(means: Float[Tensor, "groups units"], count: int) -> float:
    """Average the chance-corrected overlap of two halves' top units over all ways to halve.

    Args:
        means: as in `population_agreement`.
        count: units in the top sets.
    """
    groups, units = means.shape
    total, found = means.sum(0), []
    for chosen in combinations(range(1, groups), groups // 2):  # the first group in the other half
        half = means[list(chosen)].sum(0)
        top = torch.zeros(units, dtype=torch.bool)
        top[half.topk(count).indices] = True
        found.append(float(top[(total - half).topk(count).indices].double().mean()))
    chance = count / units
    return (float(np.mean(found)) - chance) / (1 - chance)


def overlap_of(correlation: float, share: float) -> float:
    """Give the chance-corrected overlap of two normal variables' top share.

    Args:
        correlation: of the two, from 0 to 1.
        share: in each top set, above 0 and below 1.

    >>> round(overlap_of(1.0, 0.01), 6), overlap_of(0.0, 0.01)
    (1.0, 0.0)
    """
    threshold = float(torch.special.ndtri(torch.tensor(1 - share, dtype=torch.float64)))
    end = float(np.arcsin(correlation))
    angles = end * (_POINTS + 1) / 2
    heights = np.exp(-(threshold**2) / (1 + np.sin(angles)))
    return float(end / 2 * (_WEIGHTS @ heights) / (2 * np.pi * share * (1 - share)))


def _correlation(overlap: float, share: float) -> float:
    low, high = 0.0, 1.0
    if overlap >= 1:
        return 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap_of(middle, share) < overlap else (low, middle)
    return (low + high) / 2

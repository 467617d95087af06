"""Agreement of rankings: of two methods, as samples or seeds change, and with the population's.

All of it counts the units that two top sets share, corrected for chance:

    overlap = (|A ∩ B| / k - k / n) / (1 - k / n)

for top sets A and B of k of n units each (Cohen's kappa of the two sets).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError
from paramattr.units.index import check_same_units
from paramattr.units.scores import Scores
from paramattr.units.selection import how_many

Setting = TypeVar("Setting", bound=Hashable)

_HALVINGS = 60
"""Steps of bisection: more than a float64 can tell apart."""
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class Agreement(NamedTuple):
    """The agreement of two rankings.

    Attributes:
        spearman: rank correlation over all units, -1 to 1; ties get their mean rank.
        overlap: share of the top units that both have, corrected for chance: 1 if the two top
            sets are equal, 0 if they share as many units as two random sets would.
    """

    spearman: float
    overlap: float


def agreement(one: Scores, other: Scores, *, fraction: float = 0.01) -> Agreement:
    """Compare two rankings of the same units.

    Args:
        one: scores.
        other: scores of the same units.
        fraction: share of the units in the top sets, above 0 and up to 1.

    Raises:
        UnitError: if the units differ.

    >>> from paramattr import random_scores
    >>> scores = random_scores(torch.nn.Conv2d(3, 8, 3))
    >>> agreement(scores, scores * 2 + 1)
    Agreement(spearman=1.0, overlap=1.0)
    """
    check_same_units(one.index, other.index, "agreement")
    ranks = torch.stack([_mean_ranks(one.values), _mean_ranks(other.values)])
    ranks -= ranks.mean(1, keepdim=True)
    norms = ranks.norm(dim=1).prod()
    spearman = float((ranks[0] * ranks[1]).sum() / norms) if norms > 0 else 0.0
    top = one.top(fraction=fraction, warn=False)
    shared = top.overlap(other.top(fraction=fraction, warn=False))
    return Agreement(round(min(spearman, 1.0), 12), _beyond_chance(shared, len(top) / len(one)))


@dataclass(frozen=True)
class Stability(Generic[Setting]):
    """The overlaps of the top units with a converged ranking's, as a setting grows.

    Attributes:
        overlaps: setting to the chance-corrected overlaps of its top units with the reference's,
            one per ranking.
        tolerance: distance below 1 at which an overlap may lie.
    """

    overlaps: dict[Setting, tuple[float, ...]]
    tolerance: float

    @property
    def enough(self) -> Setting | None:
        """The first setting after which every overlap is at least 1 - tolerance, or None."""
        first = None
        for setting, overlaps in self.overlaps.items():
            if min(overlaps) < 1 - self.tolerance - 1e-12:  # to the last digit
                first = None
            elif first is None:
                first = setting
        return first


def stability(
    rankings: Mapping[Setting, Scores | Sequence[Scores]],
    *,
    reference: Scores | None = None,
    fraction: float = 0.01,
    tolerance: float = 0.05,
) -> Stability[Setting]:
    """Find the setting from which the top units no longer change.

    A setting is whatever you varied: the number of nodes or samples, or a seed. If a setting has
    several scores (subsets of the data, seeds), each has its own overlap::

        nodes = {n: faig.score(data, reducer="kernel", n_steps=n) for n in (2, 4, 8, 16, 32)}
        stability(nodes).enough

    Args:
        rankings: setting to its scores, from the cheapest setting to the most expensive.
        reference: the scores that count as converged; by default the last setting's, which must be
            a single `Scores` and is then left out of the answer.
        fraction: share of the units in the top sets.
        tolerance: distance below 1 at which the chance-corrected overlap may lie, above 0 and
            below 1.

    Raises:
        UnitError: if there is nothing to compare, no converged ranking, or the units differ.
    """
    by_setting = {
        key: [value] if isinstance(value, Scores) else list(value)
        for key, value in rankings.items()
    }
    if reference is None:
        if len(by_setting) < 2 or len(list(by_setting.values())[-1]) != 1:
            raise UnitError(
                "stability needs a converged ranking: end the settings with one Scores, after at "
                "least one other setting, or pass reference=..."
            )
        reference = by_setting.popitem()[1][0]
    if not by_setting or not all(by_setting.values()):
        raise UnitError("stability needs at least one Scores for each setting: found none")
    if not 0 < tolerance < 1:
        raise UnitError(f"tolerance is {tolerance!r}: expected a number above 0 and below 1")
    return Stability(
        {
            key: tuple(agreement(s, reference, fraction=fraction).overlap for s in scores)
            for key, scores in by_setting.items()
        },
        tolerance,
    )


def subset_means(
    per_sample: Sequence[Scores], sizes: Sequence[int], *, repeats: int = 5, seed: int = 0
) -> dict[int, list[Scores]]:
    """Average the scores of random subsets of the samples, for `stability`.

    Scores are means over samples, so a subset needs no new gradient.

    Args:
        per_sample: scores of one sample each, such as `faig.score([sample], ...)`.
        sizes: sizes of subsets, each from 1 to the number of samples.
        repeats: subsets per size; the whole set is drawn only once.
        seed: seed of the draw.

    Returns:
        Size to the scores of its subsets.

    Raises:
        UnitError: for a size that cannot be drawn, or if the units differ.
    """
    draw = torch.Generator().manual_seed(seed)
    means = {}
    for size in sizes:
        if not 1 <= size <= len(per_sample):
            raise UnitError(
                f"a subset of {size} samples cannot be drawn: expected 1 to {len(per_sample)}"
            )
        times = 1 if size == len(per_sample) else repeats
        subsets = [torch.randperm(len(per_sample), generator=draw)[:size] for _ in range(times)]
        means[size] = [
            reduce(add, (per_sample[k] for k in subset.tolist())) / size for subset in subsets
        ]
    return means


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
        means: mean score of each unit over each group of as many samples; an even number of
            groups, at least 2.
        fraction: share of the units in the top sets, above 0 and up to 1.
        others: number of other samples that the mean is compared with, in multiples of the
            samples in `means`; the whole population by default.

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
    half = _correlation(overlap_of_halves(means, count), count / units)
    ratio = 2 * half / (1 - half) if half < 1 else np.inf  # signal over noise of the whole mean
    if not np.isfinite(ratio):
        return 1.0
    whole = ratio / (1 + ratio)
    there = 1.0 if others == np.inf else others * ratio / (1 + others * ratio)
    return overlap_of(float(np.sqrt(whole * there)), count / units)


def overlap_of_halves(means: Float[Tensor, "groups units"], count: int) -> float:
    """Average the chance-corrected overlap of two halves' top units over all ways to halve.

    Args:
        means: mean score of each unit over each group, as in `population_agreement`.
        count: number of units in the top sets.
    """
    groups, units = means.shape
    total, found = means.sum(0), []
    for chosen in combinations(range(1, groups), groups // 2):  # the first group in the other half
        half = means[list(chosen)].sum(0)
        top = torch.zeros(units, dtype=torch.bool)
        top[half.topk(count).indices] = True
        found.append(float(top[(total - half).topk(count).indices].double().mean()))
    return _beyond_chance(float(np.mean(found)), count / units)


def overlap_of(correlation: float, share: float) -> float:
    """Give the chance-corrected overlap of two normal variables' top share.

    Args:
        correlation: correlation of the two, from 0 to 1.
        share: share of the values in each top set, above 0 and below 1.

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
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap_of(middle, share) < overlap else (low, middle)
    return (low + high) / 2


def _mean_ranks(values: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[places]


def _beyond_chance(shared: float, chance: float) -> float:
    """Correct the share of common units for the share that random sets have in common."""
    return (shared - chance) / (1 - chance) if chance < 1 else 1.0

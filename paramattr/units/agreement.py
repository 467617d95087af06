"""Agreement of rankings: between methods, and as samples, nodes or seeds change."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError
from paramattr.units.index import check_same_units
from paramattr.units.scores import Scores

Setting = TypeVar("Setting", bound=Hashable)


class Agreement(NamedTuple):
    """How well two rankings agree.

    Attributes:
        spearman: rank correlation over all units, -1 to 1; ties get their mean rank.
        overlap: share of the top units that both have, corrected for chance: 1 if the two top
            sets are equal, 0 if they share as many units as two random sets would.
    """

    spearman: float
    overlap: float


def agreement(one: Scores, other: Scores, *, fraction: float = 0.01) -> Agreement:
    """Compare two rankings of the same units.

        overlap = (|A ∩ B| / k - k / n) / (1 - k / n)

    for the top sets A and B of k of n units each (Cohen's kappa of the two sets).

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
    chance = len(top) / len(one)
    shared = top.overlap(other.top(fraction=fraction, warn=False))
    overlap = (shared - chance) / (1 - chance) if chance < 1 else 1.0
    return Agreement(round(min(spearman, 1.0), 12), overlap)


@dataclass(frozen=True)
class Stability(Generic[Setting]):
    """How the top units settle as a setting grows.

    Attributes:
        overlaps: setting to the chance-corrected overlaps of its top units with the reference's,
            one per ranking.
        tolerance: how far below 1 an overlap may lie.
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
        tolerance: how far below 1 the chance-corrected overlap may lie, above 0 and below 1.

    Raises:
        UnitError: if there is nothing to compare, no converged ranking, or the units differ.
    """
    by_setting = {key: _as_list(value) for key, value in rankings.items()}
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
        means[size] = [_mean([per_sample[k] for k in subset.tolist()]) for subset in subsets]
    return means


def _as_list(scores: Scores | Sequence[Scores]) -> list[Scores]:
    return [scores] if isinstance(scores, Scores) else list(scores)


def _mean(scores: Sequence[Scores]) -> Scores:
    return sum(scores[1:], scores[0]) / len(scores)


def _mean_ranks(values: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[places]

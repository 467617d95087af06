"""What matters for one condition and not for the others (Eq. 7)."""

from __future__ import annotations

import math
from functools import reduce
from numbers import Real
from operator import add

from paramattr.errors import UnitError, an
from paramattr.units.scores import Scores

SHARE = "share"
"""The weight that divides each condition's scores by their total first."""


def contrast(of_interest: Scores, *others: Scores, weight: float | str = 1.0) -> Scores:
    """Subtract the mean of the other conditions' scores from those of the one of interest.

        S_D - weight / |others| Σ_{d in others} S_d

    For two conditions this is the paper's gradient elimination with the weight 1. It is
    antisymmetric with the weights 1 and `"share"`.

    Args:
        of_interest: scores of the condition whose units are sought. Scores of one call on a mapping
            of conditions have paired standard errors here, scores of separate calls unpaired ones.
        others: scores of one or more other conditions, of the same units.
        weight: how strongly to subtract the others: 1 as in the paper, 0 not at all; larger values
            avoid units that they need. `"share"` divides each condition's scores by their total
            first, so that a condition of larger attributions does not weigh more; the errors take
            the totals as known. The total is that of the magnitudes, also of scores by sign.

    Returns:
        Scores that are high where the condition of interest alone needs the unit.

    Raises:
        UnitError: if there is no other condition, the units differ, the weight is neither a finite
            number nor `"share"`, or scores sum to no share.

    Source: Xie et al. 2021, Sec. 4.2 and Eq. 7, where the weight is 1.
    """
    if not others:
        raise UnitError(
            "contrast needs at least one other condition: found the one of interest alone; write "
            "contrast(blur, noise)"
        )
    for scores in (of_interest, *others):
        if not isinstance(scores, Scores):
            raise UnitError(
                f"contrast takes Scores, one per condition: found {an(type(scores))}; write "
                "contrast(blur, noise, rain), without a list"
            )
    if weight == SHARE:
        of_interest, *others = [_share(scores) for scores in (of_interest, *others)]  # type: ignore
        weight = 1.0
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise UnitError(f"weight is {weight!r}: expected a finite number, such as 1, or {SHARE!r}")
    mean = reduce(add, others) / len(others)
    return of_interest - (mean if weight == 1 else mean * float(weight))


def _share(scores: Scores) -> Scores:
    total = float(scores.by("magnitude").values.sum())  # signed values may sum to nothing
    if not total > 0:
        raise UnitError(
            f"the scores sum to {total:.4g}: expected more than 0, to divide by; a weight of "
            f"{SHARE!r} takes scores that are not negative"
        )
    return scores / total

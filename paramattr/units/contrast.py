"""What matters for one condition and not for the others (Eq. 7)."""

from __future__ import annotations

from functools import reduce
from operator import add

from paramattr.errors import UnitError
from paramattr.units.scores import Scores


def contrast(of_interest: Scores, *others: Scores) -> Scores:
    """Subtract the mean of the other conditions' scores from those of the one of interest.

        S_D - 1/|others| Σ_{d in others} S_d

    For two conditions this is the paper's gradient elimination, and antisymmetric.

    Args:
        of_interest: scores of the condition whose units are sought.
        others: scores of one or more other conditions, of the same units.

    Returns:
        Scores that are high where the condition of interest alone needs the unit.

    Raises:
        UnitError: if there is no other condition, or the units differ.

    Source: Xie et al. 2021, Sec. 4.2 and Eq. 7.
    """
    if not others:
        raise UnitError(
            "contrast needs at least one other condition: found the one of interest alone; write "
            "contrast(blur, noise)"
        )
    for scores in (of_interest, *others):
        if not isinstance(scores, Scores):
            raise UnitError(
                f"contrast takes Scores, one a condition: found a {type(scores).__name__}; write "
                "contrast(blur, noise, rain), without a list"
            )
    return of_interest - reduce(add, others) / len(others)

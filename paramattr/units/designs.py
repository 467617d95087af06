"""Conditions in a design: each against the rest, all pairs, and factors with their interactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import chain, combinations
from math import prod
from operator import add

import torch

from paramattr.errors import UnitError
from paramattr.units.contrast import contrast
from paramattr.units.scores import Scores

BETWEEN = ":"
"""Joins the factors of an interaction's name."""


def against_rest(scores: Mapping[str, Scores], *, weight: float | str = 1.0) -> dict[str, Scores]:
    """Contrast each condition with the mean of all the others.

    Args:
        scores: condition to scores of the same units, at least two.
        weight: as in `contrast`.

    Returns:
        Condition to scores that are high where this condition alone needs the unit.

    Raises:
        UnitError: as `contrast`.

    Source: Xie et al. 2021, Eq. 7, with the mean of several conditions as the other one.
    """
    return {
        name: contrast(own, *(s for other, s in scores.items() if other != name), weight=weight)
        for name, own in scores.items()
    }


def all_pairs(
    scores: Mapping[str, Scores], *, weight: float | str = 1.0
) -> dict[tuple[str, str], Scores]:
    """Contrast each condition with each one that comes after it.

    Args:
        scores: condition to scores of the same units, at least two.
        weight: as in `contrast`. With 1 and `"share"` the other direction is the negative.

    Returns:
        `(one, other)` to the scores of one, less those of the other.

    Raises:
        UnitError: for fewer than two conditions, and as `contrast`.
    """
    if len(scores) < 2:
        raise UnitError(f"pairs need at least two conditions: found {', '.join(scores) or 'none'}")
    return {
        (one, other): contrast(scores[one], scores[other], weight=weight)
        for one, other in combinations(scores, 2)
    }


def factorial(
    scores: Mapping[str, Scores],
    design: Mapping[str, Iterable[str]],
    *,
    interactions: bool = True,
) -> dict[str, Scores]:
    """Give each unit's main effects and interactions of factors that are there or not.

    With s_f = 1 in the conditions that have factor f and -1 in the others, the effects E are fitted
    by least squares to

        S_c = mean + 1/2 Σ_F E_F Π_{f in F} s_f(c)

    over the factors and, with `interactions`, over all sets of them. For blur and noise, each there
    or not:

        E_blur       = ((S_blur - S_neither) + (S_both - S_noise)) / 2
        E_blur:noise = ((S_both - S_noise) - (S_blur - S_neither)) / 2

    An effect is a weighted sum of scores, so that `intervals`, `significant` and `top` are those of
    any scores. Its standard errors are paired where one call measured all conditions on the same
    samples.

    Args:
        scores: condition to scores of the same units.
        design: condition to the factors that it has; an empty tuple for none.
        interactions: whether factors may act together. Without, each effect is the same whatever
            else is there, which is assumed and not tested, and three conditions do for two factors.

    Returns:
        Name of each factor, such as `"blur"`, and of each interaction, such as `"blur:noise"`, to
        its effect.

    Raises:
        UnitError: if the conditions of the two mappings differ, there is no factor, or there are
            too few conditions to tell the effects apart.

    Source: Yates 1937, "The Design and Analysis of Factorial Experiments", Sec. 3.

    >>> from paramattr import UnitIndex
    >>> index = UnitIndex.of(torch.nn.Linear(1, 1, bias=False), "scalar")
    >>> scores = {name: Scores(index, torch.tensor([value])) for name, value in
    ...           {"neither": 1.0, "blur": 3.0, "noise": 2.0, "both": 6.0}.items()}
    >>> design = {"neither": (), "blur": ["blur"], "noise": ["noise"], "both": ["blur", "noise"]}
    >>> {name: float(effect.values) for name, effect in factorial(scores, design).items()}
    {'blur': 3.0, 'noise': 2.0, 'blur:noise': 1.0}
    """
    factors_of = {name: tuple(dict.fromkeys(own)) for name, own in design.items()}
    if factors_of.keys() != scores.keys():
        raise UnitError(
            f"the design is of {', '.join(factors_of) or 'no condition'}, and the scores are of "
            f"{', '.join(scores) or 'none'}: expected the same conditions"
        )
    factors = list(dict.fromkeys(chain.from_iterable(factors_of.values())))
    most = len(factors) if interactions else 1
    effects = [own for size in range(1, most + 1) for own in combinations(factors, size)]
    if not effects:
        raise UnitError("no condition has a factor: expected such as {'blurry': ['blur']}")
    rows = [
        [1.0, *(0.5 * prod(1 if f in own else -1 for f in effect) for effect in effects)]
        for own in (factors_of[name] for name in scores)  # in the order that weights are given out
    ]
    matrix = torch.tensor(rows, dtype=torch.float64)
    if int(torch.linalg.matrix_rank(matrix)) <= len(effects):
        raise UnitError(
            f"{len(rows)} conditions do not tell {len(effects)} effects and the mean apart: "
            f"expected each factor there and not there, and {2 ** len(factors)} conditions for all "
            "interactions, such as one with no factor; or take interactions=False"
        )
    weights = torch.linalg.pinv(matrix)[1:]
    return {
        BETWEEN.join(effect): _weighted(scores, dict(zip(scores, own.tolist(), strict=True)))
        for effect, own in zip(effects, weights, strict=True)
    }


def _weighted(scores: Mapping[str, Scores], weights: Mapping[str, float]) -> Scores:
    # Rounded, since the pseudo-inverse gives 0.49999999999999994 for a half.
    parts = [
        scores[name] * round(weight, 12) for name, weight in weights.items() if round(weight, 12)
    ]
    return reduce(add, parts)

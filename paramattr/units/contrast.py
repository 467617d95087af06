"""Contrasts: weighted sums of conditions' scores.

One condition against others (Eq. 7), each against the rest, all pairs, factors with their
interactions, and the slope over the levels of a severity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import chain, combinations
from numbers import Real
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError, an
from paramattr.units.index import check_same_units
from paramattr.units.scores import Scores

SHARE = "share"
"""The weight that divides each condition's scores by their total first."""
BETWEEN = ":"
"""Joins the factors of an interaction's name."""


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


def against_rest(scores: Mapping[str, Scores], *, weight: float | str = 1.0) -> dict[str, Scores]:
    """Contrast each condition with the mean of all the others.

    Args:
        scores: condition to scores of the same units, at least two.
        weight: weight of the others, as in `contrast`.

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
        weight: weight of the other, as in `contrast`. With 1 and `"share"` the other direction is
            the negative.

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
        [1.0, *(0.5 * math.prod(1 if f in own else -1 for f in effect) for effect in effects)]
        for own in (factors_of[name] for name in scores)  # in the order that weights are given out
    ]
    matrix = torch.tensor(rows, dtype=torch.float64)
    if int(torch.linalg.matrix_rank(matrix)) <= len(effects):
        raise UnitError(
            f"{len(rows)} conditions do not tell {len(effects)} effects and the mean apart: "
            f"expected each factor there and not there, and {2 ** len(factors)} conditions for all "
            "interactions, such as one with no factor; or take interactions=False"
        )
    # Rounded, since the pseudo-inverse gives 0.49999999999999994 for a half.
    weights = [
        {name: weight for name, own in zip(scores, row, strict=True) if (weight := round(own, 12))}
        for row in torch.linalg.pinv(matrix)[1:].tolist()
    ]
    return {
        BETWEEN.join(effect): _weighted([scores[name] for name in own], own.values())
        for effect, own in zip(effects, weights, strict=True)
    }


class Response:
    """The curve of each unit's score over the levels of a severity, and its regression.

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
        return _weighted(self._scores, weights)

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


def _share(scores: Scores) -> Scores:
    total = float(scores.by("magnitude").values.sum())  # signed values may sum to nothing
    if not total > 0:
        raise UnitError(
            f"the scores sum to {total:.4g}: expected more than 0, to divide by; a weight of "
            f"{SHARE!r} takes scores that are not negative"
        )
    return scores / total


def _weighted(scores: Iterable[Scores], weights: Iterable[float]) -> Scores:
    return reduce(add, (own * weight for own, weight in zip(scores, weights, strict=True)))

"""The units of any number of conditions, by FAIG."""

from __future__ import annotations

from collections.abc import Sequence

from blind_sr.data.photographs import Photographs
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from paramattr import FAIG, Scores

OfConditions = dict[str, dict[str, Scores]]
"""Units, then condition, to scores."""


def score_conditions(
    setting: Setting,
    pair: Pair,
    photographs: Photographs,
    conditions: Sequence[str],
    units: Sequence[str] = ("kernel",),
) -> OfConditions:
    """Score the units in several conditions in one pass, so that the errors are paired.

    Args:
        setting: whose rule is taken.
        pair: baseline and target.
        photographs: with inputs in each condition.
        conditions: names of their inputs.
        units: names of reducers.
    """
    faig = FAIG(pair.target, pair.baseline, dtype=pair.mixed)
    found = faig.score(
        {condition: photographs.pairs(condition) for condition in conditions},
        reducer=list(units),
        n_steps=setting.steps,
        method=setting.quadrature,
    )
    return {unit: {c: own[unit] for c, own in found.items()} for unit in units}

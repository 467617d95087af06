"""Nodes that are drawn per sample, from their definition, and the mean over every shift."""

import math


def nodes(n: int, place: int, shift: float) -> list[float]:
    """One node in each of n equal strata, all as far into theirs."""
    golden = (1 + math.sqrt(5)) / 2
    into = shift + place / golden
    into -= math.floor(into)
    return [k / n + into / n for k in range(n)]


def mean_over_shifts(function, n: int, shifts: int, place: int = 0) -> tuple[float, float]:
    """Average, over evenly spaced shifts, the rule's result and its magnitude."""
    signed = magnitude = 0.0
    for number in range(shifts):
        result = sum(function(x) for x in nodes(n, place, (number + 0.5) / shifts)) / n
        signed += result / shifts
        magnitude += abs(result) / shifts
    return signed, magnitude

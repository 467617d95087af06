"""How well the top units of some samples agree with the population's, from the definitions."""

import math
from itertools import combinations

import torch


def normal_density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def above(x: float) -> float:
    """Give the chance that a standard normal variable is above x."""
    return math.erfc(x / math.sqrt(2)) / 2


def threshold(share: float) -> float:
    low, high = -10.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > share else (low, middle)
    return (low + high) / 2


def overlap_of(correlation: float, share: float, steps: int = 20_000) -> float:
    """P(Y > t | X > t), corrected for chance, by summing over X: Y given X = x is normal too."""
    t, reach = threshold(share), 12.0
    spread = math.sqrt(1 - correlation**2)
    width = (reach - t) / steps
    both = 0.0
    for k in range(steps):
        x = t + (k + 0.5) * width
        both += width * normal_density(x) * above((t - correlation * x) / spread)
    return (both / share - share) / (1 - share)


def halves_overlap(means: list[list[float]], count: int) -> float:
    """Average, over all ways to part the groups into halves, the overlap of their top sets."""
    groups, units = len(means), len(means[0])

    def top(chosen) -> set[int]:
        mean = [sum(means[g][u] for g in chosen) / len(chosen) for u in range(units)]
        return set(sorted(range(units), key=lambda u: -mean[u])[:count])

    found = []
    for chosen in combinations(range(groups), groups // 2):
        rest = [g for g in range(groups) if g not in chosen]
        shared = len(top(chosen) & top(rest)) / count
        found.append((shared - count / units) / (1 - count / units))
    return sum(found) / len(found)


def population_agreement(means: torch.Tensor, count: int) -> float:
    """Read the halves' overlap as a correlation, and step up from it."""
    share, wanted = count / means.shape[1], halves_overlap(means.tolist(), count)
    low, high = 0.0, 1 - 1e-9
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap_of(middle, share, 2000) < wanted else (low, middle)
    of_halves = (low + high) / 2
    of_wholes = 2 * of_halves / (1 + of_halves)
    return overlap_of(math.sqrt(of_wholes), share, 2000)

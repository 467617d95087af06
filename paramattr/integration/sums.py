"""Sums over samples of what each unit gets, which a run adds to, saves and resumes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from paramattr.integration.batches import Batch
from paramattr.integration.path_integral import Integral, Spent, Values
from paramattr.integration.reduction import Reduced
from paramattr.units.covariances import Paired
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores

LOOKED_AT = 8
"""The most samples of a condition on which it is looked at what the nodes missed."""


class Sample(NamedTuple):
    """What one sample came to.

    Attributes:
        reduced: name of a set of units to its attributions there.
        values: the objective along the path, where the method follows one.
        spent: what its integration took, where that is not known beforehand.
        total: the sum of its attributions over all that moves; None where it is not known, or the
            method is not complete.
    """

    reduced: Mapping[str, Reduced]
    values: Values | None = None
    spent: Spent | None = None
    total: float | None = None


class Missed(NamedTuple):
    """What the nodes missed of samples whose objective at both ends is known.

    Attributes:
        missed: Σ_x |Σ_i A_i(x) - L(baseline, x) + L(target, x)|.
        change: Σ_x |L(baseline, x) - L(target, x)|.
    """

    missed: float
    change: float


def totalled(integral: Integral, samples: Iterator[Sample], batch: Batch) -> Iterator[Sample]:
    """Say of each sample what its attributions sum to, over all that moves.

    Where a part of that is not reported, the first samples' gradients are taken once more.

    Args:
        integral: over samples.
        samples: what came of them.
        batch: the samples.
    """
    for place, sample in enumerate(samples):
        total = sample.total
        if total is None and integral.reports_all:
            total = next(iter(sample.reduced.values())).total
        elif total is None and batch.number(place) < LOOKED_AT:
            total = integral.total(batch.part(place, 1))
        yield sample._replace(total=total)


class RunningSums:
    """The sums over the samples so far, of one set of units.

    Args:
        index: the units.
    """

    def __init__(self, index: UnitIndex) -> None:
        self.index, self.samples, self.rest = index, 0, 0.0
        self.missed = self.change = 0.0
        self.magnitudes, self.squares, self.signed, self.signed_squares = (
            torch.zeros(len(index), dtype=torch.float64) for _ in range(4)
        )

    def add(self, sample: Reduced, missed: Missed | None = None) -> None:
        """Add one sample, and what its nodes missed, where that is known."""
        if missed is not None:
            self.missed += missed.missed
            self.change += missed.change
        self.magnitudes += sample.magnitudes
        self.squares.addcmul_(sample.magnitudes, sample.magnitudes)
        self.signed += sample.signed
        self.signed_squares.addcmul_(sample.signed, sample.signed)
        self.rest += sample.rest
        self.samples += 1

    def scores(self, paired: Paired | None = None) -> Scores:
        """Give the means over the samples, and their standard errors.

            S_u = 1/n Σ_x m_u(x),    SE_u = sqrt( Σ_x (m_u(x) - S_u)² / (n (n - 1)) )

        with m_u(x) the summed magnitude in the unit, and so for its signed sum. The absolute value
        and the sum over the unit come before the mean: the two do not commute.

        Args:
            paired: what is known of them together with other conditions' scores.
        """
        n, mean, signed = self.samples, self.magnitudes / self.samples, self.signed / self.samples
        total = float(self.magnitudes.sum()) + self.rest
        return Scores(
            self.index,
            mean,
            signed=signed,
            standard_error=_error(n, mean, self.squares),
            signed_error=_error(n, signed, self.signed_squares),
            unassigned=self.rest / total if total else 0.0,
            samples=n,
            paired=paired,
            residual=self.missed / self.change if self.change else math.nan,
        )

    def state(self) -> dict[str, Tensor]:
        """Give what `resume` takes."""
        return {
            "magnitudes": self.magnitudes,
            "squares": self.squares,
            "signed": self.signed,
            "signed_squares": self.signed_squares,
            "rest": torch.tensor(self.rest, dtype=torch.float64),
            "residual": torch.tensor([self.missed, self.change], dtype=torch.float64),
            "samples": torch.tensor(self.samples),
        }

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        self.magnitudes, self.squares = state["magnitudes"], state["squares"]
        self.signed, self.signed_squares = state["signed"], state["signed_squares"]
        self.samples, self.rest = int(state["samples"]), float(state["rest"])
        self.missed, self.change = state["residual"].tolist()


def _error(samples: int, mean: Tensor, squares: Tensor) -> Tensor | None:
    """Give the standard error of a mean over samples; None of one sample."""
    if samples < 2:
        return None
    spread = (squares - samples * mean.square()).clamp(min=0)
    return (spread / (samples * (samples - 1))).sqrt()

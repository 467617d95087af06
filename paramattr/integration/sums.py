"""Sums over samples of what each unit gets, which a run adds to, saves and resumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from paramattr.integration.path_integral import Spent, Values
from paramattr.integration.reduction import Reduced
from paramattr.units.covariances import Paired
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores


class Sample(NamedTuple):
    """What one sample came to.

    Attributes:
        reduced: name of a set of units to its attributions there.
        values: the objective along the path, where the method follows one.
        spent: what its integration took, where that is not known beforehand.
    """

    reduced: Mapping[str, Reduced]
    values: Values | None = None
    spent: Spent | None = None


class RunningSums:
    """The sums over the samples so far, of one set of units.

    Args:
        index: the units.
    """

    def __init__(self, index: UnitIndex) -> None:
        self.index, self.samples, self.rest = index, 0, 0.0
        self.magnitudes, self.squares, self.signed = (
            torch.zeros(len(index), dtype=torch.float64) for _ in range(3)
        )

    def add(self, sample: Reduced) -> None:
        """Add one sample."""
        self.magnitudes += sample.magnitudes
        self.squares += sample.magnitudes.square()
        self.signed += sample.signed
        self.rest += sample.rest
        self.samples += 1

    def scores(self, paired: Paired | None = None) -> Scores:
        """Give the means over the samples, and the standard error of the mean magnitude.

            S_u = 1/n Σ_x m_u(x),    SE_u = sqrt( Σ_x (m_u(x) - S_u)² / (n (n - 1)) )

        with m_u(x) the summed magnitude in the unit. The absolute value and the sum over the unit
        come before the mean: the two do not commute.

        Args:
            paired: what is known of them together with other conditions' scores.
        """
        n, mean = self.samples, self.magnitudes / self.samples
        error = None
        if n > 1:
            spread = (self.squares - n * mean.square()).clamp(min=0)
            error = (spread / (n * (n - 1))).sqrt()
        total = float(self.magnitudes.sum()) + self.rest
        return Scores(
            self.index,
            mean,
            signed=self.signed / n,
            standard_error=error,
            unassigned=self.rest / total if total else 0.0,
            samples=n,
            paired=paired,
        )

    def state(self) -> dict[str, Tensor]:
        """Give what `resume` takes."""
        return {
            "magnitudes": self.magnitudes,
            "squares": self.squares,
            "signed": self.signed,
            "rest": torch.tensor(self.rest, dtype=torch.float64),
            "samples": torch.tensor(self.samples),
        }

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        self.magnitudes, self.squares = state["magnitudes"], state["squares"]
        self.signed, self.samples = state["signed"], int(state["samples"])
        self.rest = float(state["rest"])

"""The check that a narrower precision computes nearly the same."""

from __future__ import annotations

import warnings

from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.path_integral import PathIntegral

TOLERANCE = 0.05
"""The share of the objective's change that a `dtype` may be wrong by without a warning."""


class PrecisionCheck:
    """A look at the first sample, once: does the objective change by as much in `dtype`?

    Args:
        integral: whose objective has a `dtype` of its own, or none, which needs no check.
        stacklevel: frames from the warning to the line of the user that it is about.
    """

    def __init__(self, integral: PathIntegral, *, stacklevel: int) -> None:
        self.stacklevel = stacklevel
        own = {value.dtype for value in integral.path.evaluate(0.0).values()}
        self.integral, self.due = integral, integral.objective.dtype not in (None, *own)

    def __call__(self, batch: Batch) -> None:
        """Check the first sample of the first batch that comes.

        Warns:
            UserWarning: with both changes, where they differ by more than `TOLERANCE`.
        """
        if not self.due:
            return
        self.due = False
        narrow, sample = self.integral.objective, next(batch.chunks(1))
        exact = ObjectiveOfParameters(narrow.model, narrow.objective)
        found = []
        for objective in (narrow, exact):
            start, end = (
                objective.values(
                    self.integral.path.evaluate(alpha),
                    objective.referenced(lambda: self.integral.path.evaluate(0.0), sample),
                )
                for alpha in (0.0, 1.0)
            )
            found.append(float(end - start))
        here, there = found
        if abs(here - there) > TOLERANCE * abs(there):
            warnings.warn(
                f"in {narrow.dtype} the objective of the first sample changes by {here:.4g}, in "
                f"the model's own precision by {there:.4g}: more than {TOLERANCE:.0%} apart, so "
                "the attributions may be too; leave dtype out, or take a wider one",
                stacklevel=self.stacklevel,
            )

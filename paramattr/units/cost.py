"""What scores took."""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """What scores took.

    Attributes:
        gradients: how many were taken, in this run.
        samples: of how many samples, in this run.
        seconds: wall time of the whole call, of all its conditions together.
    """

    gradients: int = 0
    samples: int = 0
    seconds: float = 0.0

    def plus(self, gradients: int) -> Cost:
        """Add one sample."""
        return self._replace(gradients=self.gradients + gradients, samples=self.samples + 1)

"""The objective along the path: whether it passes through worse models than both its ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ParamattrError
from paramattr.integration.batches import Batch, drawn, no_batch
from paramattr.integration.integrand import Integrand
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.runtime.workers import progress_bar
from paramattr.scoring.readings import check_readings
from paramattr.scoring.state import own_share

NEARLY_EQUAL = 0.01
"""Ends that differ by a smaller share of the larger are too close for a barrier to mean much."""


@dataclass(frozen=True)
class PathProfile:
    """The mean objective at places of the path.

    Attributes:
        alphas: the places `(points,)`, rising from 0 (the target) to 1 (the baseline).
        values: the mean objective over the samples at each, `(points,)`, in float64.
        samples: how many samples it is the mean of.

    >>> PathProfile(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 4.0, 3.0]), 1).barrier
    1.0
    """

    alphas: Float[Tensor, "points"]
    values: Float[Tensor, "points"]
    samples: int

    @property
    def barrier(self) -> float:
        """How far the objective rises above the straight line between its ends.

            max(0, max_k (L(α_k) - (1 - α_k) L(0) - α_k L(1))) / |L(1) - L(0)|

        0 where it never does; above 1 the path passes through models that are worse than the
        better end by more than the two ends differ. Infinite where the ends are equal and it rises.

        Source: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        Sec. 2, there for the error and without the division.
        """
        start, end = float(self.values[0]), float(self.values[-1])
        # Above the straight line, not above the ends: a line between unequal ends is no barrier.
        above = self.values - torch.lerp(self.values[0], self.values[-1], self.alphas)
        rise, change = max(0.0, float(above.max())), abs(end - start)
        # Rounding of nearly equal ends is no barrier either.
        if rise <= 8 * torch.finfo(torch.float32).eps * max(abs(start), abs(end)):
            return 0.0
        return rise / change if change else math.inf

    @property
    def has_close_ends(self) -> bool:
        """Say whether the ends differ by under 1% of the larger."""
        start, end = float(self.values[0]), float(self.values[-1])
        return abs(end - start) < NEARLY_EQUAL * max(abs(start), abs(end))

    def __repr__(self) -> str:
        """Say how high the barrier is, and on how many samples."""
        return (
            f"PathProfile({len(self.alphas)} points, {self.samples} samples, "
            f"{float(self.values[0]):.4g} to {float(self.values[-1]):.4g}, "
            f"barrier {self.barrier:.3g})"
        )


def profile_of(
    integrand: Integrand,
    loader: Iterable[Any],
    read: Callable[[Any], Batch],
    n_points: int,
    at_once: int | None = None,
    *,
    show_progress: bool = False,
    ranks: Ranks = ALONE,
) -> PathProfile:
    """Evaluate the objective at evenly spaced places of the path.

    Args:
        integrand: the objective along the path.
        loader: batches.
        read: what the loader gives to a batch.
        n_points: places, the ends included.
        at_once: most samples that run together; a whole batch by default.
        show_progress: draw a bar on stderr.
        ranks: the processes that share the samples.

    Returns:
        The profile, of all samples.

    Raises:
        DataError: if there is no sample.
        RankError: if another rank fails, or was given other data.
        ParamattrError: for fewer than 3 places.
    """
    if isinstance(n_points, bool) or not isinstance(n_points, int) or n_points < 3:
        raise ParamattrError(
            f"n_points is {n_points!r}: expected a whole number of at least 3, both ends and a "
            "place between them"
        )
    alphas = torch.linspace(0, 1, n_points, dtype=torch.float64)
    sums, samples = torch.zeros(n_points, dtype=torch.float64), 0
    with (
        ranks.together(),
        progress_bar("profiling", None, show=show_progress and ranks.is_first) as advance,
    ):
        for batch in own_share(map(read, drawn(loader)), ranks):
            # A rank without a sample of this batch goes on to the next one.
            if batch is not None:
                size = at_once or len(batch)
                referenced = integrand.referenced(batch, size)
                if not samples:
                    check_readings(integrand, referenced)
                for place, alpha in enumerate(alphas.tolist()):
                    sums[place] += integrand.values(alpha, referenced, size).sum().cpu()
                samples += len(batch)
            advance(1)
        ranks.meet()
        # Sums, not means: ranks hold different numbers of samples.
        added = ranks.added({"sums": sums, "samples": torch.tensor(samples)})
    sums, samples = added["sums"], int(added["samples"])
    if not samples:
        raise no_batch(loader)
    return PathProfile(alphas, sums / samples, samples)

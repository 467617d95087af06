"""Curves of a measure as units are exchanged: means, intervals, areas, selectivity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError


class Interval(NamedTuple):
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: by resampling the samples.

    Attributes:
        level: share of the resamples inside the interval, above 0 and below 1.
        resamples: how many.
        seed: of the draw. The same seed gives every curve the same resamples, so that
            differences and ratios of curves are paired.
    """

    level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.resamples < 1:
            raise UnitError(
                f"a bootstrap of level {self.level!r} with {self.resamples!r} resamples: expected "
                "a level above 0 and below 1, such as 0.95, and at least one resample"
            )

    def interval(self, curves: Sequence[Curve], statistic: Callable[..., Tensor]) -> Interval:
        """Resample the samples of some curves; those with as many samples are paired.

        Args:
            curves: their fractions need not be alike.
            statistic: from the curves' means `(..., F)`, one argument each, to numbers `(...)`.

        Returns:
            The statistic of the means over all samples, and the quantiles of it over resamples.
        """
        resampled = statistic(*(self._means(curve) for curve in curves))
        tail = (1 - self.level) / 2
        kept = resampled[~resampled.isnan()].sort().values
        low, high = (
            float(kept[round(end * (len(kept) - 1))]) if len(kept) else math.nan
            for end in (tail, 1 - tail)
        )
        return Interval(float(statistic(*(curve.mean() for curve in curves))), low, high)

    def _means(self, curve: Curve) -> Float[Tensor, "resamples fractions"]:
        size = curve.values.shape[1]
        draw = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(size, (self.resamples, size), generator=draw)
        counts = torch.zeros(self.resamples, size, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        return counts / size @ curve.values.T


@dataclass(frozen=True)
class Curve:
    """A measure as the top units are exchanged.

    Attributes:
        fractions: shares of the units, from 0 up to 1.
        values: the measure at each, `(F, samples)`, in float64.
    """

    fractions: tuple[float, ...]
    values: Float[Tensor, "fractions samples"]

    def mean(self) -> Float[Tensor, "fractions"]:
        """Average over the samples."""
        return self.values.mean(1)

    def on(self, samples: slice) -> Curve:
        """Give the curve on some of the samples."""
        return Curve(self.fractions, self.values[:, samples])

    def at(self, fraction: float, bootstrap: Bootstrap = Bootstrap()) -> Interval:
        """Give the mean of the measure at one of the fractions, with its interval.

        Raises:
            UnitError: for a fraction that was not measured.
        """
        place = self._place(fraction)
        return bootstrap.interval([self], lambda mean: mean[..., place])

    def area(self, control: Curve, bootstrap: Bootstrap = Bootstrap()) -> Interval:
        """Normalise the area under the curve: 0 is the control, 1 the best there can be.

            (A - A_control) / (1 - A_control)

        with A the area under (m(f) - m(0)) / (m(1) - m(0)), which runs from 0 with no unit
        exchanged to 1 with all. The best is all that all units can do, reached at once. It
        is above 1 if some units alone do more than all, and below 0 if they do less than chance.

        Args:
            control: the curve of random units, at the same fractions.
            bootstrap: how the interval is drawn.

        Raises:
            UnitError: if the fractions differ or do not run from 0 to 1, or if exchanging all
                units does not change the measure.
        """
        if self.fractions != control.fractions:
            raise UnitError("the curve and its control are at different fractions")
        if self.fractions[0] != 0 or self.fractions[-1] != 1 or len(self.fractions) < 3:
            raise UnitError(
                f"an area needs a curve from 0 to 1 with a fraction between: found {self.fractions}"
            )
        mean = self.mean()
        if mean[-1] == mean[0]:
            raise UnitError(
                "the measure is the same with no unit and with all units exchanged: these units "
                "do not carry what it measures; take other units, or another measure"
            )
        places = torch.tensor(self.fractions, dtype=torch.float64)

        def gain(own: Tensor, chance: Tensor) -> Tensor:
            areas = [torch.trapezoid(_progress(values), places) for values in (own, chance)]
            return (areas[0] - areas[1]) / (1 - areas[1])

        return bootstrap.interval([self, control], gain)

    def selectivity(
        self, other: Curve, fraction: float, bootstrap: Bootstrap = Bootstrap()
    ) -> Interval:
        """Divide what this function lost by what another lost, as the same units go.

            |m_own(f) - m_own(0)| / |m_other(f) - m_other(0)|

        Args:
            other: the curve of the other function's measure under the same ranking.
            fraction: of the units.
            bootstrap: how the interval is drawn, over paired samples.

        Returns:
            The ratio; infinite where the other lost nothing, NaN where neither did.

        Raises:
            UnitError: for a fraction that was not measured, or no start at 0.
        """
        if self.fractions[0] != 0 or other.fractions[0] != 0:
            raise UnitError("selectivity compares with the unedited model: start the curves at 0")
        own_place, other_place = self._place(fraction), other._place(fraction)
        return bootstrap.interval(
            [self, other],
            lambda own, others: (
                (own[..., own_place] - own[..., 0]).abs()
                / (others[..., other_place] - others[..., 0]).abs()
            ),
        )

    def _place(self, fraction: float) -> int:
        if fraction not in self.fractions:
            raise UnitError(
                f"fraction {fraction:g} was not measured: expected one of {self.fractions}"
            )
        return self.fractions.index(fraction)


def _progress(mean: Float[Tensor, "*r fractions"]) -> Float[Tensor, "*r fractions"]:
    start, end = mean[..., :1], mean[..., -1:]
    return (mean - start) / (end - start)

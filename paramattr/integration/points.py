"""Points of a path, held in memory so that they are interpolated as rarely as may be."""

from __future__ import annotations

import torch
from torch import Tensor

from paramattr.paths import FittedPath, Parameters


class Points:
    """The parameters at some points of a path.

    A point's tensors are valid until `at` is called with another `alpha`: one point's memory is
    written anew for all that have no place of their own. A point that the model has written on is
    interpolated again.

    Args:
        path: the path.
        dtype: precision of the points' floating-point tensors; the path's by default.
    """

    def __init__(self, path: FittedPath, dtype: torch.dtype | None = None) -> None:
        self.path, self.dtype, self._room = path, dtype, 1
        self._kept: dict[float, _Point] = {}
        self._passing: _Point | None = None

    def keep(self, points: int) -> None:
        """Set how many points are held, the one that is written anew included."""
        self._room = points
        for alpha in list(self._kept)[points - 1 :]:
            del self._kept[alpha]

    def at(self, alpha: float, *, keep: bool = False) -> Parameters:
        """Give the parameters at `alpha`: at a path's ends the models' own tensors, if they fit.

        Args:
            alpha: the place on the path.
            keep: whether the point comes again, and gets a place of its own while there is one.
        """
        point = self._kept.get(alpha)
        if point is None and keep and len(self._kept) < self._room - 1:
            point = self._kept[alpha] = _Point(self._empty())
        if point is None:
            if self._passing is None:
                self._passing = _Point(self._empty())
            point = self._passing
        if not point.is_at(alpha):
            with torch.no_grad():
                self.path.fill(alpha, point.values)
            point.is_now_at(alpha)
        return dict(point.values)

    def written(self) -> list[str]:
        """List what the model has written on since the last point was filled."""
        return [] if self._passing is None else self._passing.written()

    def _empty(self) -> Parameters:
        return {
            name: torch.empty_like(value, dtype=self.dtype if value.is_floating_point() else None)
            for name, value in self.path.start.items()
        }


class PointsInPlace:
    """Points that the path writes into the model's own memory, one after the other: none is held.

    Args:
        path: the path.
    """

    def __init__(self, path: FittedPath) -> None:
        self.path = path

    def keep(self, points: int) -> None:
        """Hold nothing, whatever is asked for."""

    def at(self, alpha: float, *, keep: bool = False) -> Parameters:
        """Write the parameters at `alpha`, and give them."""
        return self.path.evaluate(alpha)

    def written(self) -> list[str]:
        """List nothing: whoever holds the memory restores it."""
        return []


class _Point:
    """Tensors, and what they were last filled with."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values
        self._alpha: float | None = None
        self._versions: list[int] = []

    def is_at(self, alpha: float) -> bool:
        return self._alpha == alpha and self._versions == self._seen()

    def is_now_at(self, alpha: float) -> None:
        self._alpha, self._versions = alpha, self._seen()

    def written(self) -> list[str]:
        pairs = zip(self.values, self._versions, self._seen(), strict=True)
        return [name for name, before, now in pairs if before != now]

    def _seen(self) -> list[int]:
        return [value._version for value in self.values.values()]

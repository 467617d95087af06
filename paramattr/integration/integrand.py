"""The integrand: the objective along a path, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.checkpoints import fingerprint
from paramattr.identity import likeness, stamped
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import Gradients, ObjectiveOfParameters, Take
from paramattr.integration.points import Points, PointsInPlace
from paramattr.integration.reduction import chunks
from paramattr.paths import FittedPath
from paramattr.runtime.compute import wide
from paramattr.runtime.halving import in_parts
from paramattr.runtime.ranks import Ranks, sketch

Attributions = dict[str, Tensor]
"""Names to tensors shaped like the parameters, or `(B, *shape)` per sample."""


class Watch:
    """A place at which a run's own gradients of the first sample give the slope, once.

    Args:
        alpha: the place, a node of the run.
        names: all that moves there. Partitions ask for some of them at a time.
        then: called with the slope as soon as all have been asked for.
    """

    def __init__(self, alpha: float, names: Iterable[str], then: Callable[[float], None]) -> None:
        self.alpha, self._missing, self._then = alpha, set(names), then
        self._slope, self._is_over = 0.0, False

    def is_due(self, alpha: float, batch: Batch) -> bool:
        """Say whether these gradients are those that are waited for."""
        return not self._is_over and alpha == self.alpha and batch.number(0) == 0

    def add(self, name: str, slope: float) -> None:
        """Take in one parameter's part of the slope."""
        if name in self._missing:
            self._slope += slope

    def was_asked(self, names: Iterable[str]) -> None:
        """Note the parameters that a pass was asked for; some may have had no gradient."""
        self._missing.difference_update(names)
        if not self._missing:
            self._is_over = True
            self._then(self._slope)


@dataclass(frozen=True)
class Integrand:
    """∂L(γ(α), x)/∂γ(α)_i · ∂γ(α)_i/∂α of Eq. 5, at any α and for any batch.

    Attributes:
        objective: the objective as a function of the parameters.
        path: the path from the target to the baseline.
        reported: the names whose attributions are kept.
        points: the parameters at points of the path, held where they come again.
        watch: what is handed the slope at one place, if anything.
    """

    objective: ObjectiveOfParameters
    path: FittedPath
    reported: tuple[str, ...]
    points: Points | PointsInPlace = field(
        default=None,  # type: ignore[assignment]
        repr=False,
        compare=False,
    )
    watch: Watch | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.points is None:
            points = Points(self.path, self.objective.model.given_dtype)
            object.__setattr__(self, "points", points)

    @property
    def device(self) -> torch.device:
        """The device of the path's parameters."""
        return next(iter(self.path.start.values())).device

    def replica(self) -> Integrand:
        """Return a copy for another thread.

        Raises:
            ModelError: as `FunctionalModel.replica`.
        """
        return replace(self, objective=self.objective.replica(), points=None)  # type: ignore[arg-type]

    def referenced(self, batch: Batch, at_once: int) -> Batch:
        """Fill in a batch's targets if the objective compares with the target model's outputs."""
        return self.objective.referenced(lambda: self.points.at(0.0), batch, at_once)

    def values(self, alpha: float, batch: Batch, at_once: int) -> Float[Tensor, "b"]:
        """Evaluate the objective at one point of the path, at most `at_once` samples together.

        Returns:
            `(B,)`, in float64.
        """
        values = partial(self.objective.values, self.points.at(alpha))
        return torch.cat(
            list(in_parts(batch, at_once, values, self.objective.model.model))
        ).double()

    def moving(self, alpha: float) -> list[str]:
        """List the parameters that move at one point."""
        return self.path.moving(alpha)

    def gradients(
        self,
        alpha: float,
        batch: Batch,
        names: list[str],
        *,
        each: bool = False,
        take: Take | None = None,
    ) -> Gradients:
        """Differentiate the objective at one point, per sample or summed over the batch.

        Args:
            alpha: the place on the path.
            batch: samples.
            names: the parameters to differentiate with respect to.
            each: whether per sample.
            take: as in `ObjectiveOfParameters.gradient`; only for a sum over the batch.
        """
        point = self.points.at(alpha, keep=True)
        watch = self.watch
        if watch is None or not watch.is_due(alpha, batch):
            if each:
                return self.objective.sample_gradients(point, batch, names)
            return self.objective.gradient(point, batch, names, take)

        def also(name: str, gradient: Tensor) -> None:
            watch.add(name, self._along(name, alpha, gradient))
            if take is not None:
                take(name, gradient)

        if each:
            found = self.objective.sample_gradients(point, batch, names)
        else:
            found = self.objective.gradient(point, batch, names, None if take is None else also)
        for name, gradient in found.by_name.items():
            watch.add(name, self._along(name, alpha, gradient[0] if each else gradient))
        watch.was_asked(names)
        return found

    def slopes(self, alpha: float, batch: Batch) -> dict[str, float]:
        """Give the slope of the objective's sum along the path, as the gradients have it.

            ∂L(γ(α))/∂γ_i · ∂γ_i/∂α, summed over the entries of each parameter

        Gradients are multiplied as they come, so that they are never held together.

        Returns:
            Names to slopes. What no gradient reaches is not among them.
        """
        found: dict[str, float] = {}

        def take(name: str, gradient: Tensor) -> None:
            found[name] = found.get(name, 0.0) + self._along(name, alpha, gradient)

        point = self.points.at(alpha)
        self.objective.gradient(point, batch, self.moving(alpha), take)
        return self.objective.of_all_shards(found)

    def _along(self, name: str, alpha: float, gradient: Tensor) -> float:
        """Multiply a gradient by the path's speed, some rows after the other, and sum."""
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            [rows] = gradient.indices()
            speed = self.path.derivative_of(name, alpha, rows)
            return float((gradient.values() * speed).sum(dtype=torch.float64))
        whole, total = gradient if gradient.ndim else gradient[None], 0.0
        for rows in chunks(whole):
            speed = self.path.derivative_of(name, alpha, rows)
            total += float((whole[rows] * speed).sum(dtype=torch.float64))
        return total

    def zeros(
        self, names: list[str], leading: tuple[int, ...] = (), *, of_gradients: bool = False
    ) -> Attributions:
        """Make zeros of the parameters' shapes, after `leading` dimensions, in their memory layout.

        Args:
            names: names of parameters.
            leading: sizes of the dimensions in front of the parameter's.
            of_gradients: whether to use the gradients' precision if it is wider.
        """
        zeros, precision = {}, self.objective.model.given_dtype
        for name in names:
            like = self.path.start[name]
            shape, kind = (*leading, *like.shape), wide(like.dtype)
            if of_gradients and precision is not None:
                kind = torch.promote_types(kind, precision)
            if leading:
                zeros[name] = torch.zeros(shape, dtype=kind, device=like.device)
            else:
                zeros[name] = torch.zeros_like(like, dtype=kind)
        return zeros

    def compare(self, ranks: Ranks, *settings: Any) -> None:
        """Compare with other ranks what is integrated, and how.

        Args:
            ranks: the processes that share the samples.
            settings: what else must be the same.

        Raises:
            RankError: naming what differs.
        """
        if ranks.processes == 1:
            return
        if not ranks.are_in_step:  # shards differ, as they must
            ranks.compare("the models", sketch(*map(self.path.evaluate, (0.0, 1.0))))
        ranks.compare("the objective", likeness(self.objective.objective))
        if not self.path.is_piecewise_linear:
            ranks.compare("the path", likeness(self.path.given))
        dtype = self.objective.model.compute.dtype
        ranks.compare("the settings", likeness([self.reported, dtype, *settings]))

    def settings(self) -> dict[str, Any]:
        """Describe the integrand, to tell runs apart."""
        places = self.path.breakpoints
        inside = [start + 0.38 * (end - start) for start, end in pairwise(places)]  # for curves
        points = (self.path.evaluate(alpha) for alpha in (*places, *inside))  # one at a time
        model = self.objective.model
        buffers: Iterator[dict[str, Tensor]] = iter([dict(model.model.named_buffers())])
        return {
            "method": "parameter path",
            "path": fingerprint(chain(points, buffers)),
            **stamped("objective", self.objective.objective),
            # Of a curve a few points are no identity.
            **({} if self.path.is_piecewise_linear else stamped("path's curve", self.path.given)),
            "dtype": str(model.compute.dtype),
            "parameters": list(self.reported),
        }

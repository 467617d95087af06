"""The integral of Eq. 5 over a batch: a path, a quadrature rule and an objective put together."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.checkpoints import fingerprint
from paramattr.errors import ParamattrError
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters, check_finite_gradients
from paramattr.objectives import described
from paramattr.paths import Path, StraightLine, breakpoints
from paramattr.quadrature import Rule

_log = logging.getLogger(__name__)

Attributions = dict[str, Tensor]
Node = tuple[float, float, list[str]]
"""A node of the path: its alpha, its weight, and the parameters that move there."""


class PathIntegral:
    """One path, one rule, one objective: the integral over any batch.

    Args:
        objective: as a function of the parameters.
        path: from the target to the baseline.
        rule: placed on each smooth piece of the path.
        reported: the parameters whose attributions are kept.

    Attributes:
        nodes: each node's alpha, weight, and the parameters that move there.
        device: where the path's parameters are.
        batched: whether several samples may be differentiated in one pass.
        straight: whether the path has one derivative all along.
    """

    def __init__(
        self, objective: ObjectiveOfParameters, path: Path, rule: Rule, reported: list[str]
    ) -> None:
        self.objective, self.path, self.rule, self.reported = objective, path, rule, reported
        self.batched, self.straight = True, isinstance(path, StraightLine)
        start = path.evaluate(0.0)
        self.device = next(iter(start.values())).device
        self._shapes = {
            name: torch.empty_like(value, device="meta") for name, value in start.items()
        }
        self._moving = _moving(path, 0.0) if self.straight else None
        self.nodes = [
            node for start, end in pairwise(breakpoints(path)) for node in self.placed(start, end)
        ]

    def values(self, alpha: float, batch: Batch, chunk: int) -> Float[Tensor, "b"]:
        """Evaluate the objective at one place of the path, at most `chunk` samples at once.

        Returns:
            `(B,)`, in float64.
        """
        point = self.path.evaluate(alpha)
        parts = [
            self.objective.values(point, self._referenced(part)) for part in batch.chunks(chunk)
        ]
        return torch.cat(parts).double()

    def replicas(self, workers: int) -> list[PathIntegral]:
        """Give each worker an integral of its own; this one, where there is one worker."""
        if workers == 1:
            return [self]
        found = [copy.copy(self) for _ in range(workers)]
        for replica in found:
            replica.objective = self.objective.replica()
        return found

    def zeros(self, leading: tuple[int, ...] = ()) -> Attributions:
        """Make zeros of the reported parameters' shapes, behind `leading` ones."""
        zeros = {}
        for name in self.reported:
            like = self._shapes[name]
            shape, kind = (*leading, *like.shape), _accumulator(like)
            if leading:
                zeros[name] = torch.zeros(shape, dtype=kind, device=self.device)
                continue
            # With the parameter's strides; `zeros_like` of a meta tensor would import SymPy.
            empty = torch.empty_strided(shape, like.stride(), dtype=kind, device=self.device)
            zeros[name] = empty.zero_()
        return zeros

    def over(self, batch: Batch, *, whole: bool, each: bool = False) -> tuple[Attributions, Tensor]:
        """Integrate over the path.

        Args:
            batch: samples.
            whole: total all that moves, not the reported parameters alone.
            each: keep the samples apart, `(B, ...)`, rather than sum over them.
        """
        leading = (len(batch),) if each else ()
        sums, batch = self.zeros(leading), self._referenced(batch)
        total = torch.zeros(leading, dtype=torch.float64, device=self.device)
        with self.objective.checked_together():
            for alpha, weight, moving in self.nodes:
                names = moving if whole else [name for name in moving if name in sums]
                if not names:
                    continue
                if self.straight and not whole:  # its speed comes in at the end
                    _add(sums, self._gradients(alpha, batch, names, each=each), weight)
                    continue
                for name, product in self.products(alpha, batch, names, each=each):
                    if name in sums:
                        sums[name].add_(product, alpha=weight)
                    if whole:
                        flat = product.reshape(*leading, -1)
                        total += weight * flat.sum(-1, dtype=torch.float64)
        if self.straight and not whole:
            for name, speed in self.path.derivative(0.0).items():
                if name in sums:
                    sums[name].mul_(speed)
        check_finite_gradients({**sums, "a parameter": total}, batch)
        return sums, total

    def samples(
        self, batch: Batch, *, whole: bool, at_once: int = 1
    ) -> Iterator[tuple[Attributions, Tensor]]:
        """Integrate over the path for each sample by itself.

        Args:
            batch: samples.
            whole: as in `over`.
            at_once: samples whose gradients are taken in one pass. Where the model or the
                objective cannot be batched (`torch.func.vmap`), they go one by one.
        """
        for part in batch.chunks(at_once):
            several = None
            if len(part) > 1 and self.batched:
                try:
                    with warnings.catch_warnings():  # vmap's, of layers that it loops over itself
                        warnings.simplefilter("ignore")
                        several = self.over(part, whole=whole, each=True)
                except ParamattrError:
                    raise
                except Exception as error:  # vmap fails in many ways; if it is not vmap, so does
                    self.batched = False  # the loop
                    _log.info("samples go one by one, since vmap cannot follow: %s", error)
            if several is None:
                for sample in part.chunks(1):
                    yield self.over(sample, whole=whole)
                continue
            sums, totals = several
            for number in range(len(part)):
                yield {name: value[number] for name, value in sums.items()}, totals[number]

    def products(
        self, alpha: float, batch: Batch, names: list[str], *, each: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Give ∂L/∂γ_i · ∂γ_i/∂α at one place, parameter by parameter, as `over` has them."""
        gradients = self._gradients(alpha, batch, names, each=each)
        speeds = self.path.derivative(alpha)
        for name, gradient in gradients.items():
            kind = _accumulator(gradient)
            yield name, gradient.to(kind) * speeds[name].to(kind)

    def _gradients(
        self, alpha: float, batch: Batch, names: list[str], *, each: bool
    ) -> dict[str, Tensor]:
        differentiate = self.objective.sample_gradients if each else self.objective.gradient
        return differentiate(self.path.evaluate(alpha), batch, names)

    def placed(self, start: float, end: float) -> Iterator[Node]:
        """Give the rule's nodes on a piece of the path."""
        # A node at a breakpoint belongs to the piece it was placed on: step inside it.
        low = start if start == 0 else math.nextafter(start, end)
        high = end if end == 1 else math.nextafter(end, start)
        for node, weight in zip(self.rule.nodes, self.rule.weights, strict=True):
            alpha = min(max(start + node * (end - start), low), high)
            moving = self._moving or _moving(self.path, alpha)
            yield alpha, weight * (end - start), moving

    def _referenced(self, batch: Batch) -> Batch:
        return self.objective.referenced(lambda: self.path.evaluate(0.0), batch)

    def settings(self) -> dict[str, Any]:
        """Describe the integral, so that two runs can be told apart."""
        places = breakpoints(self.path)
        inside = [start + 0.38 * (end - start) for start, end in pairwise(places)]  # if curved
        points = (self.path.evaluate(alpha) for alpha in (*places, *inside))  # one at a time
        buffers = dict(self.objective.model.named_buffers())
        return {
            "method": "parameter path",
            "rule": self.rule.settings(),
            "path": fingerprint(chain(points, [buffers])),
            "objective": described(self.objective.objective),
            "dtype": str(self.objective.dtype),
            "parameters": self.reported,
        }


def _add(sums: Attributions, gradients: Attributions, weight: float) -> None:
    """Add to the sums; what is given is gone on return, before the next pass makes more."""
    torch._foreach_add_([sums[name] for name in gradients], list(gradients.values()), alpha=weight)


def _moving(path: Path, alpha: float) -> list[str]:
    return [name for name, speed in path.derivative(alpha).items() if speed.any()]


def _accumulator(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)

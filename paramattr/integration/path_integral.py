"""The integral of Eq. 5 over a batch by a rule of fixed nodes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.integration.batches import Batch
from paramattr.integration.gradients import check_finite_gradients, check_finite_values
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.quadrature import Rule
from paramattr.runtime.compute import wide


class Spent(NamedTuple):
    """What the adaptive integration of one sample (or of one summed batch) took.

    Attributes:
        evaluations: gradients.
        panels: pieces of the path that were kept.
        residual: the attributions' sum minus the objective's change, over that change's size.
        reason: `"converged"`; `"max_evaluations"` where they were spent before that; or
            `"narrowest"` where a panel was halved 16 times and is not good enough yet.
    """

    evaluations: int
    panels: int
    residual: float
    reason: str


class Values(NamedTuple):
    """The objective of some samples at some places of the path.

    Attributes:
        alphas: the places.
        of_samples: `(places, B)`.
    """

    alphas: tuple[float, ...]
    of_samples: Float[Tensor, "places b"]


class Integrated(NamedTuple):
    """What an integral over one sample, or over a summed batch, came to.

    Attributes:
        attributions: of what is reported.
        total: their sum, with all else that moves if that was asked for; a scalar in float64.
        values: places on the path, and the objective there: `(places, B)`.
        spent: what it took, where that is not known beforehand.
    """

    attributions: Attributions
    total: Tensor
    values: Values
    spent: Spent | None = None


class Integral(Protocol):
    """What every way of integrating offers."""

    integrand: Integrand

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch."""
        ...

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate for each sample by itself."""
        ...

    def settings(self) -> dict[str, Any]:
        """Describe the integral, so that two runs can be told apart."""
        ...


class Node(NamedTuple):
    """A node of a rule on the path: where it is, and how much it counts."""

    alpha: float
    weight: float


class Stretch(NamedTuple):
    """Nodes between which the path's speed does not change, and what moves there.

    On a path of straight pieces these are the nodes of a piece; on a curved one each by itself.
    """

    nodes: tuple[Node, ...]
    moving: list[str]


class PathIntegral:
    """The integral of an integrand by a rule that is placed on each smooth piece of the path.

    On a stretch of constant speed the gradients are summed, and multiplied by the speed once:

        Σ_k w_k ∂L(γ(α_k))/∂γ_i · v_i = v_i Σ_k w_k ∂L(γ(α_k))/∂γ_i

    Args:
        integrand: the objective along the path.
        rule: nodes and weights on [0, 1].
    """

    def __init__(self, integrand: Integrand, rule: Rule) -> None:
        self.integrand, self.rule = integrand, rule
        self.reported = frozenset(integrand.reported)
        self.stretches: list[Stretch] = []
        for start, end in pairwise(integrand.path.breakpoints):
            nodes = place(rule.nodes, rule.weights, start, end)
            groups = [nodes] if integrand.path.is_piecewise_linear else [(n,) for n in nodes]
            for group in groups:
                self.stretches.append(Stretch(group, integrand.moving(group[0].alpha)))

    @property
    def moving(self) -> list[str]:
        """Name all that moves somewhere."""
        return list(dict.fromkeys(name for stretch in self.stretches for name in stretch.moving))

    def replica(self) -> PathIntegral:
        """Make one for another thread.

        Raises:
            ModelError: as `FunctionalModel.replica`.
        """
        other = copy.copy(self)
        other.integrand = self.integrand.replica()
        return other

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch.

        Args:
            batch: samples.
            whole: total all that moves, not what is reported alone.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        return self._integrated(batch, whole=whole, each=False)

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample by itself.

        Args:
            batch: samples.
            whole: as in `over`.
            at_once: samples whose gradients are taken in one pass, while the model and the
                objective can be batched (`torch.func.vmap`).
        """
        start = 0
        while start < len(batch):
            size = at_once if self.integrand.objective.is_batchable else 1
            part = batch.part(start, size)
            start += len(part)
            if len(part) == 1:
                yield self.over(part, whole=whole)
                continue
            sums, totals, (alphas, values), _ = self._integrated(part, whole=whole, each=True)
            for number in range(len(part)):
                own = Values(alphas, values[:, number : number + 1])
                yield Integrated({n: v[number] for n, v in sums.items()}, totals[number], own)

    def settings(self) -> dict[str, Any]:
        """Describe the integral, so that two runs can be told apart."""
        return {**self.integrand.settings(), "rule": self.rule.settings()}

    def _integrated(self, batch: Batch, *, whole: bool, each: bool) -> Integrated:
        integrand, leading = self.integrand, (len(batch),) if each else ()
        sums: Attributions = {}
        total = torch.zeros(leading, dtype=torch.float64, device=integrand.device)
        values: list[Float[Tensor, "b"]] = []
        alphas: list[float] = []
        for stretch in self.stretches:
            names = [name for name in stretch.moving if whole or name in self.reported]
            if not names:
                continue
            raw = integrand.zeros(names, leading, of_gradients=True)
            for node in stretch.nodes:
                found = integrand.gradients(node.alpha, batch, names, each=each)
                values.append(found.values)
                alphas.append(node.alpha)
                _add(raw, found.by_name, node.weight)
                del found  # before the next pass makes more
            speed = integrand.path.derivative(stretch.nodes[0].alpha)
            for name in names:
                product = raw.pop(name).mul_(speed[name])
                if whole:
                    total += product.reshape(*leading, -1).sum(-1, dtype=torch.float64)
                product = product.to(wide(speed[name].dtype))
                if name in self.reported:
                    sums[name] = sums[name].add_(product) if name in sums else product
        still = [name for name in integrand.reported if name not in sums]
        sums = {**integrand.zeros(still, leading), **sums}
        check_finite_values(values, batch.first)
        check_finite_gradients({**sums, "a parameter": total}, batch)
        seen = torch.stack(values) if values else torch.zeros(0, len(batch))
        attributions = {name: sums[name] for name in integrand.reported}
        return Integrated(attributions, total, Values(tuple(alphas), seen))


def place(
    nodes: tuple[float, ...], weights: tuple[float, ...], start: float, end: float
) -> tuple[Node, ...]:
    """Put a rule's nodes on a piece of the path.

    >>> place((0.0, 0.5), (0.5, 0.5), 0.0, 0.5)
    (Node(alpha=0.0, weight=0.25), Node(alpha=0.25, weight=0.25))
    """
    # A node at a breakpoint belongs to the piece it was placed on: step inside it.
    low = start if start == 0 else math.nextafter(start, end)
    high = end if end == 1 else math.nextafter(end, start)
    return tuple(
        Node(min(max(start + node * (end - start), low), high), weight * (end - start))
        for node, weight in zip(nodes, weights, strict=True)
    )


def _add(sums: Attributions, gradients: Attributions, weight: float) -> None:
    """Add to the sums, all parameters in one call."""
    if gradients:
        torch._foreach_add_(
            [sums[name] for name in gradients], list(gradients.values()), alpha=weight
        )

"""The integral of Eq. 5 over a batch, by a rule with fixed nodes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.integration.batches import Batch
from paramattr.integration.gradients import check_finite_gradients, check_finite_values
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.quadrature import Rule
from paramattr.runtime.compute import wide
from paramattr.runtime.halving import in_parts


class Spent(NamedTuple):
    """The cost of the adaptive integration of one sample (or of one summed batch).

    Attributes:
        evaluations: number of gradients.
        panels: number of panels that were kept.
        residual: the attributions' sum minus the objective's change, relative to that change.
        reason: why it stopped: `"converged"`; `"max_evaluations"` if they ran out first; or
            `"narrowest"` if a panel was halved 16 times and still is not accurate enough.
    """

    evaluations: int
    panels: int
    residual: float
    reason: str


class Values(NamedTuple):
    """The objective of some samples at some points of the path.

    Attributes:
        alphas: the points.
        of_samples: `(points, B)`.
    """

    alphas: tuple[float, ...]
    of_samples: Float[Tensor, "points b"]


class Integrated(NamedTuple):
    """The result of an integral over one sample, or over a summed batch.

    Attributes:
        attributions: attributions of the reported parameters.
        total: their sum, or the sum over everything that moves if requested; a float64 scalar.
        values: the objective at points of the path.
        spent: the cost, if it is not known beforehand.
    """

    attributions: Attributions
    total: Tensor
    values: Values
    spent: Spent | None = None


class Integral(Protocol):
    """The interface of all integrals."""

    integrand: Integrand

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch."""
        ...

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate for each sample separately."""
        ...

    @property
    def reports_all(self) -> bool:
        """Say whether all that moves is reported."""
        ...

    def total(self, sample: Batch) -> float:
        """Sum the attributions of a sample over all that moves, without holding any."""
        ...

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        ...


class Node(NamedTuple):
    """A node of a rule on the path: its position and its weight."""

    alpha: float
    weight: float


class Stretch(NamedTuple):
    """Nodes between which the path's speed is constant, and the parameters that move there.

    On a piecewise linear path these are the nodes of a piece; on a curve, each node by itself.
    """

    nodes: tuple[Node, ...]
    moving: list[str]


class PathIntegral:
    """The integral of an integrand, by a rule placed on each smooth piece of the path.

    On a stretch of constant speed, the gradients are summed and multiplied by the speed once:

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
        """List all parameters that move somewhere."""
        return list(dict.fromkeys(name for stretch in self.stretches for name in stretch.moving))

    def replica(self) -> PathIntegral:
        """Return a copy for another thread.

        Raises:
            ModelError: as `FunctionalModel.replica`.
        """
        other = copy.copy(self)
        other.integrand = self.integrand.replica()
        return other

    @property
    def has_fixed_nodes(self) -> bool:
        """Say whether all samples meet the same nodes."""
        return True

    def of_sample(self, sample: Batch) -> PathIntegral:
        """Give the integral with the nodes that one sample meets."""
        return self

    @property
    def reports_all(self) -> bool:
        """Say whether all that moves is reported."""
        return self.reported.issuperset(self.moving)

    def total(self, sample: Batch) -> float:
        """Sum the attributions of a sample over all that moves, without holding any."""
        nodes = (n for stretch in self.of_sample(sample).stretches for n in stretch.nodes)
        return total_over(self.integrand, nodes, sample)

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch.

        Args:
            batch: samples.
            whole: whether the total includes everything that moves, not only what is reported.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        work = partial(self._integrated, whole=whole, each=False)
        return summed(list(in_parts(batch, len(batch), work, self._model)))

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample separately.

        Args:
            batch: samples.
            whole: as in `over`.
            at_once: samples whose gradients are taken in one pass, as long as the model and the
                objective can be batched (`torch.func.vmap`).
        """
        start, work = 0, partial(self._of_each, whole=whole)
        while start < len(batch):
            size = at_once if self.integrand.objective.is_batchable else 1
            rest = batch.part(start, len(batch))
            for several in in_parts(rest, size, work, self._model):
                start += len(several)
                yield from several
                del several  # before the next samples' attributions are made
                if size > 1 and not self.integrand.objective.is_batchable:
                    break

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        return {**self.integrand.settings(), "rule": self.rule.settings()}

    @property
    def _model(self) -> nn.Module:
        return self.integrand.objective.model.model

    def _of_each(self, batch: Batch, *, whole: bool) -> list[Integrated]:
        if len(batch) == 1:
            return [self.over(batch, whole=whole)]
        sums, totals, (alphas, values), _ = self._integrated(batch, whole=whole, each=True)
        return [
            Integrated(
                {name: value[number] for name, value in sums.items()},
                totals[number],
                Values(alphas, values[:, number : number + 1]),
            )
            for number in range(len(batch))
        ]

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
                gradients = integrand.gradients(node.alpha, batch, names, each=each)
                values.append(gradients.values)
                alphas.append(node.alpha)
                _add(raw, gradients.by_name, node.weight)
                del gradients  # before the next pass allocates more
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
        check_finite_values(values, batch.first, batch.step)
        check_finite_gradients({**sums, "a parameter": total}, batch)
        seen = torch.stack(values) if values else torch.zeros(0, len(batch))
        attributions = {name: sums[name] for name in integrand.reported}
        return Integrated(attributions, total, Values(tuple(alphas), seen))


def total_over(integrand: Integrand, nodes: Iterable[Node], sample: Batch) -> float:
    """Sum the attributions of a sample over all that moves: Σ_k w_k ∂L(γ(α_k))/∂α."""
    return sum(node.weight * sum(integrand.slopes(node.alpha, sample).values()) for node in nodes)


def summed(parts: list[Integrated]) -> Integrated:
    """Add the integrals over parts of a batch."""
    first, *rest = parts
    if not rest:
        return first
    for other in rest:
        for name, value in other.attributions.items():
            first.attributions[name].add_(value)
    total = torch.stack([part.total for part in parts]).sum(0)
    of_samples = torch.cat([part.values.of_samples for part in parts], 1)
    return Integrated(first.attributions, total, Values(first.values.alphas, of_samples))


def place(
    nodes: tuple[float, ...], weights: tuple[float, ...], start: float, end: float
) -> tuple[Node, ...]:
    """Place a rule's nodes on a piece of the path.

    >>> place((0.0, 0.5), (0.5, 0.5), 0.0, 0.5)
    (Node(alpha=0.0, weight=0.25), Node(alpha=0.25, weight=0.25))
    """
    # A node at a breakpoint belongs to the piece it was placed on, so move it inside.
    low = start if start == 0 else math.nextafter(start, end)
    high = end if end == 1 else math.nextafter(end, start)
    return tuple(
        Node(min(max(start + node * (end - start), low), high), weight * (end - start))
        for node, weight in zip(nodes, weights, strict=True)
    )


def _add(sums: Attributions, gradients: Attributions, weight: float) -> None:
    """Add weighted gradients to the sums, all parameters in one call."""
    if gradients:
        torch._foreach_add_(
            [sums[name] for name in gradients], list(gradients.values()), alpha=weight
        )

"""Integrals of Eq. 5: what every one of them offers, and how attributions are summed over nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.cost import Plan, Spent
from paramattr.errors import ModelError
from paramattr.integration.accumulation import (
    Attributions,
    Products,
    Reduced,
    Reduction,
    Speed,
    Sums,
)
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import check_finite_values
from paramattr.integration.integrand import Integrand
from paramattr.runtime.compute import wide
from paramattr.runtime.workers import in_order, progress_bar


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


class UnitSums(Protocol):
    """An integral whose gradients are summed over units as they come."""

    plan: Plan

    def planned(self, samples: int) -> Plan:
        """Plan the gradients of samples that come together."""
        ...

    def held_bytes(self) -> int:
        """Give the bytes of gradients that wait, and of what they are reduced in."""
        ...

    def samples(self, batch: Batch) -> Iterator[tuple[dict[str, Reduced], Values]]:
        """Integrate for each sample, and reduce its attributions to every set of units."""
        ...


class Integral(Protocol):
    """The interface of all integrals."""

    integrand: Integrand

    @property
    def moving(self) -> list[str]:
        """List all parameters that move somewhere."""
        ...

    @property
    def reports_all(self) -> bool:
        """Say whether the reported attributions sum to the total."""
        ...

    @property
    def shared_nodes(self) -> Sequence[float]:
        """List where every sample's gradients of all that moves are taken; none if that differs."""
        ...

    @property
    def looked_at(self) -> Sequence[float]:
        """List places that a first look needs beside the ends and the nodes."""
        ...

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch.

        Args:
            batch: samples.
            whole: whether the total includes everything that moves, not only what is reported.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        ...

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample separately.

        Args:
            batch: samples.
            whole: as in `over`.
            at_once: number of samples whose gradients are taken in one pass, as long as the model
                and the objective can be batched (`torch.func.vmap`).
        """
        ...

    def by_units(self, reduction: Reduction, memory: int | None) -> UnitSums | None:
        """Give the integral that sums gradients over units as they come; None if there is none."""
        ...

    def total(self, sample: Batch) -> float:
        """Sum the attributions of a sample over all that moves, without holding any."""
        ...

    def partitioned(self, parts: int) -> Sequence[Integral]:
        """Split the integral into several, each of the parameters of one part.

        Raises:
            ParamattrError: where all parameters are needed at once.
        """
        ...

    def replica(self) -> Integral:
        """Return a copy for another thread.

        Raises:
            ModelError: if the model cannot be copied.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        ...


class Method(Protocol):
    """A rule that makes its own integral."""

    @property
    def needs_all(self) -> bool:
        """Say whether it needs the attributions of all parameters at once, sample after sample."""
        ...

    def integral(self, integrand: Integrand) -> Integral:
        """Give the integral of the objective along the path."""
        ...

    def check_shards(self) -> None:
        """Reject models that are sharded over processes, if it cannot take them.

        Raises:
            ModelError: saying what it needs.
        """
        ...


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


def stretches(
    integrand: Integrand, nodes: tuple[Node, ...], moving: list[str] | None = None
) -> list[Stretch]:
    """Group the nodes of one smooth piece by where the path's speed is constant.

    Args:
        integrand: the objective along the path.
        nodes: nodes inside the piece.
        moving: what moves there, if it is known.
    """
    groups = [nodes] if integrand.path.is_piecewise_linear else [(node,) for node in nodes]
    return [
        Stretch(group, integrand.moving(group[0].alpha) if moving is None else moving)
        for group in groups
    ]


def integrated(
    integrand: Integrand,
    over: Iterable[Stretch],
    batch: Batch,
    *,
    whole: bool,
    each: bool = False,
) -> Integrated:
    """Sum gradient times speed over nodes.

        Σ_k w_k ∂L(γ(α_k))/∂γ_i · v_i = v_i Σ_k w_k ∂L(γ(α_k))/∂γ_i

    On a stretch of constant speed v, the gradients are summed and multiplied by it once.

    Args:
        integrand: the objective along the path.
        over: nodes.
        batch: samples.
        whole: as in `Integral.over`.
        each: whether per sample: attributions are then `(B, *shape)`, and the total `(B,)`.

    Raises:
        ObjectiveError: if the objective or a gradient is not finite somewhere.
    """
    leading, reported = (len(batch),) if each else (), frozenset(integrand.reported)
    sums: Attributions = {}
    total = torch.zeros(leading, dtype=torch.float64, device=integrand.device)
    values: list[Float[Tensor, "b"]] = []
    alphas: list[float] = []
    for stretch in over:
        names = [name for name in stretch.moving if whole or name in reported]
        if not names:
            continue
        # Freed parameter by parameter below, so that the products take no memory beside the sums.
        raw = Sums(integrand.zeros(names, leading, of_gradients=True), is_zero=True)
        for node in stretch.nodes:
            gradients = integrand.gradients(node.alpha, batch, names, each=each)
            values.append(gradients.values)
            alphas.append(node.alpha)
            raw.add_all(gradients.by_name, node.weight)
            del gradients  # before the next pass allocates more
        products = Products(Speed(integrand.path, stretch.nodes[0].alpha))
        for name in names:
            product = products.whole(name, raw)
            # In float64: the sum of millions of float32 is compared with a difference of two
            # objectives.
            if whole:
                total += product.reshape(*leading, -1).sum(-1, dtype=torch.float64)
            # A parameter may move on several pieces of the path.
            if name in reported:
                product = product.to(wide(integrand.path.start[name].dtype))
                sums[name] = sums[name].add_(product) if name in sums else product
    # What does not move has attribution zero, not none.
    still = [name for name in integrand.reported if name not in sums]
    sums = {**integrand.zeros(still, leading), **sums}
    # Once after all nodes: on an accelerator each check waits for it.
    check_finite_values(values, batch.first, batch.step)
    integrand.objective.check_gradients({**sums, "a parameter": total}, batch)
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
    # In place: with large models a second set of attributions would not fit.
    for other in rest:
        for name, value in other.attributions.items():
            first.attributions[name].add_(value)
    total = torch.stack([part.total for part in parts]).sum(0)
    of_samples = torch.cat([part.values.of_samples for part in parts], 1)
    return Integrated(first.attributions, total, Values(first.values.alphas, of_samples))


def replicas(integral: Integral, workers: int) -> Sequence[Integral]:
    """Copy the integral for each worker; a single worker gets the integral itself.

    Raises:
        ModelError: if the model cannot be copied.
    """
    return [integral.replica() for _ in range(workers)] if workers > 1 else [integral]


class Summed(NamedTuple):
    """The result of integrating over a batch.

    Attributes:
        attributions: summed over the batch, or `(B, *shape)` per sample.
        totals: their sums over everything that moves, per sample or per part of the batch.
        spent: the cost of each sample or part, if the integral reports it.
    """

    attributions: Attributions
    totals: Float[Tensor, "parts"]
    spent: tuple[Spent, ...]


def sum_samples(
    integral: Integral,
    batch: Batch,
    *,
    whole: bool,
    per_sample: bool,
    at_once: int,
    workers: int = 1,
    show_progress: bool = False,
) -> Summed:
    """Integrate over a batch, part by part.

    Args:
        integral: the integral over samples.
        batch: samples.
        whole: whether totals include everything that moves, not only what is reported.
        per_sample: whether to keep the samples apart.
        at_once: number of samples that go through the model together.
        workers: number of threads that process parts in parallel.
        show_progress: whether to show a progress bar on stderr.
    """
    integrand, leading = integral.integrand, (len(batch),) if per_sample else ()
    sums = integrand.zeros(list(integrand.reported), leading)
    totals, spent = list[Tensor](), list[Spent]()

    def work(replica: Integral, part: Batch) -> list[Integrated]:
        if per_sample:
            return list(replica.samples(part, whole=whole, at_once=at_once))
        return [replica.over(part, whole=whole)]

    # Parts are added in their order whatever thread ends first, so that workers do not change a
    # bit.
    parts = in_order(work, replicas(integral, workers), batch.chunks(at_once))
    with (
        progress_bar("attributing", len(batch), show=show_progress) as advance,
        closing(parts) as results,
    ):
        for part in results:
            for attributions, total, values, taken in part:
                for name, value in attributions.items():
                    own = sums[name]
                    (own[len(totals)] if per_sample else own).add_(value)
                totals.append(total)
                if taken is not None:
                    spent.append(taken)
                advance(values.of_samples.shape[1])
    stacked = torch.stack(totals)
    return Summed(sums, stacked if per_sample else stacked.sum(), tuple(spent))


def delta_of(
    attributions: Mapping[str, Tensor], integral: Integral, batch: Batch
) -> Float[Tensor, "..."]:
    """Compare the sum of the attributions with the objective's change.

    Args:
        attributions: attributions of everything that moves, summed over the batch or per sample.
        integral: the integral over samples.
        batch: samples.

    Returns:
        The sum of the attributions minus `L(baseline) - L(target)`, in float64: `(B,)` if they are
        per sample, else a scalar.

    Raises:
        ModelError: if a parameter that moves has no attribution, or one of another shape.
    """
    integrand = integral.integrand
    # A partial report sums to less, and the difference would look like an error of the rule.
    missing = [name for name in integral.moving if name not in attributions]
    if missing:
        raise ModelError(
            f"parameter {missing[0]!r} moves along the path but has no attribution here: "
            "completeness holds over all that moves; take the delta of a partial report "
            "from attribute(..., return_convergence_delta=True)"
        )
    batch = integrand.referenced(batch, len(batch))
    start, end = (integrand.values(alpha, batch, len(batch)) for alpha in (0.0, 1.0))
    shapes = {
        name: (tuple(value.shape), tuple(integrand.path.start[name].shape))
        for name, value in attributions.items()
        if name in integrand.path.start
    }
    # A batch of one is read as a sum: the two readings give the same number then.
    if all(actual == shape for actual, shape in shapes.values()):
        total = sum(value.double().sum() for value in attributions.values())
        return torch.as_tensor(total - (end - start).sum())
    for name, (actual, shape) in shapes.items():
        if actual != (len(batch), *shape):
            raise ModelError(
                f"the attribution of parameter {name!r} has shape {actual}: expected "
                f"{shape}, or {(len(batch), *shape)} per sample"
            )
    flat = (value.double().reshape(len(batch), -1) for value in attributions.values())
    return sum(value.sum(1) for value in flat) - (end - start)

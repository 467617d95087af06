"""Attributions of a batch, summed or per sample, and their convergence delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ModelError
from paramattr.integration.batches import Batch
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.integration.path_integral import Integral, Integrated, Spent
from paramattr.integration.scoring import replicas
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.workers import in_order


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
        at_once: samples that go through the model together.
        workers: threads that process parts in parallel.
        show_progress: show a progress bar on stderr.
    """
    integrand, leading = integral.integrand, (len(batch),) if per_sample else ()
    sums = integrand.zeros(list(integrand.reported), leading)
    totals, spent = list[Tensor](), list[Spent]()

    def work(replica: Integral, part: Batch) -> list[Integrated]:
        if per_sample:
            return list(replica.samples(part, whole=whole, at_once=at_once))
        return [replica.over(part, whole=whole)]

    parts = in_order(work, replicas(integral, workers), batch.chunks(at_once))
    with (
        progress_bar("attributing", len(batch), show=show_progress) as advance,
        closing(parts) as results,
    ):
        for part in results:
            for attributions, total, values, taken in part:
                for name, value in attributions.items():
                    place = sums[name]
                    (place[len(totals)] if per_sample else place).add_(value)
                totals.append(total)
                if taken is not None:
                    spent.append(taken)
                advance(values.of_samples.shape[1])
    stacked = torch.stack(totals)
    return Summed(sums, stacked if per_sample else stacked.sum(), tuple(spent))


def check_complete(attributions: Mapping[str, Tensor], moving: Iterable[str]) -> None:
    """Refuse attributions that lack a parameter that moves.

    Raises:
        ModelError: naming it.
    """
    missing = [name for name in moving if name not in attributions]
    if missing:
        raise ModelError(
            f"parameter {missing[0]!r} moves along the path but has no attribution here: "
            "completeness holds over all that moves; take the delta of a partial report "
            "from attribute(..., return_convergence_delta=True)"
        )


def delta_of(
    attributions: Mapping[str, Tensor], integrand: Integrand, batch: Batch
) -> Float[Tensor, "..."]:
    """Compare the sum of the attributions with the objective's change.

    Args:
        attributions: attributions of everything that moves, summed over the batch or per sample.
        integrand: the objective along the path.
        batch: samples.

    Returns:
        The sum of the attributions minus `L(baseline) - L(target)`, in float64: `(B,)` if they are
        per sample, else a scalar.

    Raises:
        ModelError: if an attribution does not have its parameter's shape.
    """
    start, end = (integrand.values(alpha, batch, len(batch)) for alpha in (0.0, 1.0))
    shapes = {
        name: (tuple(value.shape), tuple(integrand.path.start[name].shape))
        for name, value in attributions.items()
        if name in integrand.path.start
    }
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

"""Attributions of a batch, summed or per sample, and what they lack of the objective's change."""

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
    """What a batch came to.

    Attributes:
        attributions: summed over the batch, or `(B, *shape)` per sample.
        totals: their sum over all that moves, per sample or per part of the batch.
        spent: of each sample or part, where an integral says what it took.
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
        integral: over one sample or several.
        batch: samples.
        whole: total all that moves, not what is reported alone.
        per_sample: keep the samples apart.
        at_once: samples that go through the model together.
        workers: threads that take parts side by side.
        show_progress: draw a bar on stderr.
    """
    integrand, leading = integral.integrand, (len(batch),) if per_sample else ()
    sums = integrand.zeros(list(integrand.reported), leading)
    totals, spent = list[Tensor](), list[Spent]()

    def work(one: Integral, part: Batch) -> list[Integrated]:
        if per_sample:
            return list(one.samples(part, whole=whole, at_once=at_once))
        return [one.over(part, whole=whole)]

    parts = in_order(work, replicas(integral, workers), batch.chunks(at_once))
    with (
        progress_bar("attributing", len(batch), show=show_progress) as advance,
        closing(parts) as several,
    ):
        for part in several:
            for attributions, total, values, taken in part:
                for name, value in attributions.items():
                    kept = sums[name]
                    (kept[len(totals)] if per_sample else kept).add_(value)
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
    """Compare attributions with the change of the objective that they should sum to.

    Args:
        attributions: of all that moves, summed over the batch or per sample.
        integrand: the objective along the path.
        batch: samples.

    Returns:
        The sum of the attributions minus `L(baseline) - L(target)`, in float64: `(B,)` if they are
        per sample, else a scalar.

    Raises:
        ModelError: if an attribution has another shape than its parameter.
    """
    start, end = (integrand.values(alpha, batch, len(batch)) for alpha in (0.0, 1.0))
    shapes = {
        name: (tuple(value.shape), tuple(integrand.path.start[name].shape))
        for name, value in attributions.items()
        if name in integrand.path.start
    }
    if all(found == shape for found, shape in shapes.values()):
        total = sum(value.double().sum() for value in attributions.values())
        return torch.as_tensor(total - (end - start).sum())
    for name, (found, shape) in shapes.items():
        if found != (len(batch), *shape):
            raise ModelError(
                f"the attribution of parameter {name!r} has shape {found}: expected "
                f"{shape}, or {(len(batch), *shape)} per sample"
            )
    flat = (value.double().reshape(len(batch), -1) for value in attributions.values())
    return sum(value.sum(1) for value in flat) - (end - start)

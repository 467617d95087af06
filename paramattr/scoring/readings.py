"""A look at tensors that may not be batch first: as many entries as samples, by chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from paramattr.errors import DataError
from paramattr.integration.batches import Batch, mapped, tensors_in
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrand import Integrand

ROUNDING = 64
"""How many units of rounding two evaluations of one sample may differ by."""


def check_readings(integrand: Integrand, batch: Batch) -> None:
    """Reject a tensor of one entry per sample that the model reads as a whole.

    Tensors are batch first, so that weights of C classes would be cut where the batch holds C
    samples, and each sample would get another weight. The model tells the two apart: the first
    sample alone runs with the whole tensor too, and gives another number than with its own entry.
    Where the entries are the samples' own, the shapes do not fit, or give a number per entry. Only
    batches with such a tensor are looked at, and shards are not.

    Args:
        integrand: the objective along the path.
        batch: samples, with the targets that the objective compares with.

    Raises:
        DataError: naming the tensor and both readings.
    """
    # One sample has one reading. Shards would have to be gathered for each look.
    if len(batch) < 2 or not isinstance(integrand.objective, ObjectiveOfParameters):
        return
    doubtful = [
        (place, where, tensor)
        for place, (where, tensor) in enumerate(_placed(batch))
        if tensor.ndim and where != "input 0" and set(tensor.shape) == {len(batch)}
    ]
    if not doubtful:
        return
    sample = batch.part(0, 1)
    own = _value(integrand, sample)
    for place, where, tensor in doubtful:
        whole = _value(integrand, _with(sample, place, tensor))
        if own is None or whole is None:
            continue
        precision = integrand.objective.model.compute.dtype or own.dtype
        # The same sample may round otherwise beside another shape of argument.
        slack = ROUNDING * torch.finfo(precision).eps * max(abs(own), abs(whole))
        if abs(own - whole) > slack:
            raise DataError(
                f"{where} has shape {tuple(tensor.shape)}, and the batch {len(batch)} samples; the "
                f"first one's objective is {float(own):.4g} with one entry and {float(whole):.4g} "
                "with all of them, so it may hold one entry for each sample or be shared by all: "
                "expected one reading; give a shared one a copy per sample, "
                "tensor.expand(samples, *tensor.shape), or bind it into the forward of both models "
                "with functools.partial, and give one per sample a second dimension of size 1"
            )


def _placed(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Name all tensors that go to the model, in the order of `tensors_in`."""
    for number, tensor in enumerate(batch.inputs):
        yield f"input {number}", tensor
    for number, value in enumerate(batch.extra):
        yield from ((f"further argument {number}", tensor) for tensor in tensors_in(value))
    for name, value in batch.keywords.items():
        yield from ((f"the keyword {name!r}", tensor) for tensor in tensors_in(value))


def _with(sample: Batch, place: int, whole: Tensor) -> Batch:
    """Put a whole tensor into one sample, in the place of its own part."""
    numbers = count()
    inputs, extra, keywords = mapped(
        (sample.inputs, sample.extra, sample.keywords),
        lambda own: whole if next(numbers) == place else own,
    )
    return replace(sample, inputs=inputs, extra=extra, keywords=keywords)


def _value(integrand: Integrand, sample: Batch) -> Tensor | None:
    """Give a sample's objective at the target; None where there is not exactly one."""
    function = integrand.objective
    try:
        with torch.no_grad():
            output = function.model(integrand.points.at(0.0), sample)
            values = function.objective(output, sample.targets)
    except Exception:  # shapes that do not fit are refused by any class of error
        return None
    is_one = isinstance(values, Tensor) and values.shape == (1,) and values.is_floating_point()
    return values[0] if is_one else None

"""What is looked at before the work: the first sample, at both ends of the path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from paramattr.errors import warn
from paramattr.integration.batches import Batch
from paramattr.integration.functional import FunctionalModel
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrand import Integrand
from paramattr.parameters import named_parameters
from paramattr.runtime.compute import Compute, wide

PRECISION_TOLERANCE = 0.05
"""The share of the objective's change that a `dtype` may be wrong by without a warning."""
GAP_TOLERANCE = 0.01
"""The share of the objective's change that the baseline model itself may differ from the path's
end by without a warning."""


class Preflight:
    """A look at the first batch of a call, before the work.

    The objective is evaluated at both ends: what is wrong with its shape or range shows. Whether
    autograd can follow it shows at the first gradient.

    Args:
        integrand: the objective along the path.
        baseline: the baseline model, which is compared with the path's end; None for no comparison.

    Attributes:
        is_due: whether the look is still to come.
    """

    def __init__(self, integrand: Integrand, baseline: nn.Module | None = None) -> None:
        self.integrand, self.baseline = integrand, baseline
        self.is_due = True

    def __call__(self, batch: Batch) -> None:
        """Look at the first batch that comes.

        Raises:
            ObjectiveError: if the objective is not one finite number per sample.

        Warns:
            UserWarning: as `compare_precision` and `compare_baseline`.
        """
        if not self.is_due:
            return
        self.is_due, sample = False, batch.part(0, 1)
        compare_precision(self.integrand, sample)
        if self.baseline is not None:
            compare_baseline(self.integrand, sample, self.baseline)


def compare_precision(integrand: Integrand, sample: Batch) -> None:
    """Compare the objective's change with the one in float32, where the `dtype` is narrower.

    Warns:
        UserWarning: with both changes, where they differ by more than `PRECISION_TOLERANCE`.
    """
    narrow = integrand.objective
    start = integrand.path.start.values()
    exact_dtype = max((wide(value.dtype) for value in start), key=lambda dtype: dtype.itemsize)
    dtype = narrow.model.compute.dtype
    if dtype is None or dtype.itemsize >= exact_dtype.itemsize:
        return
    model = FunctionalModel(
        narrow.model.model, Compute(dtype=exact_dtype), moving=narrow.model.moving
    )
    exact = replace(integrand, objective=ObjectiveOfParameters(model, narrow.objective))
    here, there = (_change(one, one.referenced(sample, 1)) for one in (integrand, exact))
    if abs(here - there) > PRECISION_TOLERANCE * abs(there):
        warn(
            f"in {dtype} the objective of the first sample changes by {here:.4g}, in "
            f"{exact_dtype} by {there:.4g}: more than {PRECISION_TOLERANCE:.0%} apart, so the "
            "attributions may be too; leave dtype out, or take a wider precision"
        )


def compare_baseline(integrand: Integrand, sample: Batch, baseline: nn.Module) -> None:
    """Compare the baseline model's own objective with that at the path's end.

    They differ where something else than parameters and buffers does: code, a configuration, a
    buffer of whole numbers.

    Warns:
        UserWarning: with the gap and its share of the objective's change.
    """
    function = integrand.objective
    compute = replace(function.model.compute, compile=False)
    start, end = (float(integrand.values(alpha, sample, 1)) for alpha in (0.0, 1.0))
    with _evaluating(baseline):
        own = ObjectiveOfParameters(FunctionalModel(baseline, compute), function.objective)
        values = replace(compute, device=integrand.device).placed(named_parameters(baseline))
        found = float(own.values(values, sample))
    gap, change = abs(found - end), abs(end - start)
    precision = max(torch.finfo(value.dtype).eps for value in integrand.path.start.values())
    if compute.is_mixed and compute.dtype is not None:
        precision = torch.finfo(compute.dtype).eps
    if gap > max(GAP_TOLERANCE * change, 64 * precision * max(abs(start), abs(end))):
        share = f"{gap / change:.0%} of the change" if change else "while the path changes nothing"
        warn(
            f"on the first sample the baseline model's own objective is {found:.4g}, and at the "
            f"path's end {end:.4g} ({share}): something else than the parameters and buffers that "
            "move differs between the models, and is not attributed; compare their code, "
            "configuration and integer buffers"
        )


def _change(integrand: Integrand, sample: Batch) -> float:
    start, end = (float(integrand.values(alpha, sample, 1)) for alpha in (0.0, 1.0))
    return end - start


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in training:
            module.training = mode

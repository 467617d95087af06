"""Floating-point buffers, such as a batch norm's statistics: they change in fine-tuning too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramattr.errors import ModelError
from paramattr.parameters import Baseline, check_finite, state_of

Statistics = nn.modules.batchnorm._NormBase
"""The norms of torch that keep running statistics: batch norm and instance norm."""


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """List the floating-point buffers of a model, detached, non-persistent ones too.

    Counters such as `num_batches_tracked` are whole numbers, and are not listed.
    """
    return {
        name: buffer.detach()
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point()
    }


def moving_buffers(model: nn.Module, baseline: Baseline) -> dict[str, Tensor]:
    """Take the baseline's values of the floating-point buffers that differ from the model's.

    Args:
        model: the target.
        baseline: a module, or a mapping of names to tensors; buffers that a mapping lacks count as
            equal.

    Returns:
        Names to detached tensors, on the device and in the precision of the model's, in the
        model's order. Equal buffers are not listed.

    Raises:
        ModelError: for a buffer of another shape, or values that are not finite.
    """
    other = state_of(baseline)
    if isinstance(baseline, nn.Module):
        other |= {name: buffer.detach() for name, buffer in baseline.named_buffers()}
    moving = {}
    for name, buffer in float_buffers(model).items():
        if name not in other:
            continue
        if other[name].shape != buffer.shape:
            raise ModelError(
                f"buffer {name!r} has shape {tuple(buffer.shape)} in the model and "
                f"{tuple(other[name].shape)} in the baseline: expected two models of one "
                "architecture"
            )
        value = other[name].detach().to(buffer)
        if not torch.equal(value, buffer):
            moving[name] = value
    check_finite(moving, "the baseline")
    check_finite({name: model.get_buffer(name) for name in moving}, "the model")
    return moving

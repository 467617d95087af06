"""Floating-point buffers, such as the running statistics of a batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramattr.errors import ModelError
from paramattr.parameters import Baseline, check_finite, check_ties, state_of

Statistics = nn.modules.batchnorm._NormBase
"""PyTorch's norms that keep running statistics: batch norm and instance norm."""
STATISTICS = ("running_mean", "running_var")
"""The buffers of such a norm that have one entry per channel."""


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """List a model's floating-point buffers, detached, including non-persistent ones.

    Counters such as `num_batches_tracked` are integers, so they are not listed.
    """
    return {
        name: buffer.detach()
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point()
    }


def moving_buffers(
    model: nn.Module, baseline: Baseline, *, strict: bool = True, widened: bool = False
) -> dict[str, Tensor]:
    """Return the baseline's values of the floating-point buffers that differ from the model's.

    Args:
        model: the target.
        baseline: a module, or a mapping of names to tensors; buffers missing from a mapping count
            as equal.
        strict: whether buffers of one name must have one shape. If not, one of another shape keeps
            the model's values, as the parameters of a new head do.
        widened: whether they are in float32 at least.

    Returns:
        Names to detached tensors, in the model's order, with the device and precision of the
        model's buffers. Equal buffers are not listed.

    Raises:
        ModelError: for a buffer of another shape, one that is tied in the model and not in the
            baseline, or values that are not finite.
    """
    other = state_of(baseline, model)
    if isinstance(baseline, nn.Module):
        every = baseline.named_buffers(remove_duplicate=False)
        other |= {name: buffer.detach() for name, buffer in every}
    aliases: dict[int, list[str]] = {}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in other:
            aliases.setdefault(id(buffer), []).append(name)
    moving = {}
    for name, buffer in float_buffers(model).items():
        present = aliases.get(id(model.get_buffer(name)))
        if not present:
            continue
        check_ties("buffers", present, other)
        other[name] = other[present[0]]
        if other[name].shape != buffer.shape:
            if not strict:
                continue
            raise ModelError(
                f"buffer {name!r} has shape {tuple(buffer.shape)} in the model and "
                f"{tuple(other[name].shape)} in the baseline: expected two models of one "
                "architecture; with strict=False it keeps the target's values along the whole path"
            )
        dtype = torch.promote_types(buffer.dtype, torch.float32) if widened else buffer.dtype
        value = other[name].detach().to(buffer.device, dtype)
        if not torch.equal(value, buffer.to(dtype)):
            moving[name] = value
    check_finite(moving, "the baseline")
    check_finite({name: model.get_buffer(name) for name in moving}, "the model")
    return moving

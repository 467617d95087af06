"""The path between two models: its ends hold their parameters and moving buffers."""

from __future__ import annotations

import torch
from torch import nn

from paramattr.buffers import moving_buffers
from paramattr.errors import ModelError
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.paths import FittedPath, Path, StraightLine, check_ends
from paramattr.runtime.compute import Compute


def path_between(
    model: nn.Module,
    baseline: Baseline,
    path: Path | None,
    compute: Compute,
    *,
    strict: bool = True,
    quiet: bool = True,
) -> FittedPath:
    """Make the path from the target to the baseline.

    Args:
        model: the target.
        baseline: the model it is compared with, or a mapping of names to tensors.
        path: a path between them; the straight line by default. Buffers that it lacks move in a
            straight line.
        compute: where to put the path's tensors; they are in float32 at least.
        strict: as in `FAIG`.
        quiet: whether to suppress the warning about what `strict=False` left out.

    Raises:
        ModelError: if the two models do not fit, are equal, or are not the path's ends.
    """
    target = named_parameters(model)
    other = align(model, baseline, strict=strict, quiet=quiet, widened=True)
    buffers = moving_buffers(model, baseline, strict=strict, widened=True)
    target |= {name: model.get_buffer(name).detach() for name in buffers}
    other |= buffers
    start, end = compute.placed(target), compute.placed(other)
    if all(torch.equal(start[name], end[name]) for name in start):
        raise ModelError(
            "the baseline equals the model in every parameter: there is no change to "
            "attribute; pass the model from before the fine-tuning as the baseline"
        )
    if path is None:
        return FittedPath(StraightLine(start, end), start, buffers=tuple(buffers))
    held = path.evaluate(0.0)
    rest = [name for name in buffers if name not in held]
    check_ends(
        path,
        {name: value for name, value in target.items() if name not in rest},
        {name: value for name, value in other.items() if name not in rest},
    )
    line = StraightLine(*({name: side[name] for name in rest} for side in (start, end)))
    return FittedPath(path, start, line if rest else None, buffers=tuple(buffers))

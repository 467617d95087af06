"""Per-sample objectives: what a model's output is worth, one number a sample.

An objective is any callable of `(output, targets)` that returns a tensor of shape `(B,)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ObjectiveError

Objective = Callable[[Any, Any], Tensor]
"""`(model output, targets)` to a tensor `(B,)`."""


def squared_error(
    output: Float[Tensor, "b *rest"], targets: Float[Tensor, "b *rest"]
) -> Float[Tensor, "b"]:
    """Squared error summed over all but the batch: ||output - targets||², Eq. 3.

    Args:
        output: `(B, ...)`.
        targets: of the output's shape.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if there is no target, or one of another shape (it is never broadcast).

    Source: Xie et al. 2021, Eq. 3.

    >>> import torch
    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor([5.])
    """
    _check_same_shape("squared_error", output, targets)
    return _summed((output - targets).square())


def absolute_error(
    output: Float[Tensor, "b *rest"], targets: Float[Tensor, "b *rest"]
) -> Float[Tensor, "b"]:
    """Absolute error summed over all but the batch.

    Args:
        output: `(B, ...)`.
        targets: of the output's shape.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if there is no target, or one of another shape (it is never broadcast).

    >>> import torch
    >>> absolute_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor([3.])
    """
    _check_same_shape("absolute_error", output, targets)
    return _summed((output - targets).abs())


def cross_entropy(output: Float[Tensor, "b classes *rest"], targets: Tensor) -> Float[Tensor, "b"]:
    """Cross entropy of logits, summed over all but the batch (positions of a sequence or image).

    Args:
        output: logits `(B, C)` or `(B, C, ...)`.
        targets: class numbers `(B,)` or `(B, ...)`, or probabilities of the output's shape.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if there is no target.

    >>> import torch
    >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2])).exp().item(), 4)
    4.0
    """
    if not isinstance(targets, Tensor):
        raise ObjectiveError(
            f"cross_entropy needs targets: expected class numbers, found {targets!r}; give them "
            "beside the inputs"
        )
    return _summed(F.cross_entropy(output, targets, reduction="none"))


def summed_output(output: Float[Tensor, "b *rest"], targets: Any = None) -> Float[Tensor, "b"]:
    """Sum of the output over all but the batch; there is nothing that it is compared with.

    Args:
        output: `(B, ...)`.
        targets: not looked at.

    Returns:
        `(B,)`.

    Source: the objective of the modified IG in Xie et al. 2021, Sec. 5.2.1.

    >>> import torch
    >>> summed_output(torch.tensor([[1.0, 2.0]]))
    tensor([3.])
    """
    return _summed(output)


@dataclass(frozen=True)
class SelfReference:
    """Distance to the target's own output, for data without ground truth or labels.

    The attribution methods fill the targets in: what the target itself makes of each sample. Any
    targets that are given are not looked at. `self_reference` is this with the squared error::

        FAIG(target, baseline, objective=self_reference).score(inputs_alone, reducer="kernel")

    At the target itself it is zero and flat: a gradient taken there (`gradient_times_change` at the
    target, `fisher_times_change`) is zero everywhere.

    Attributes:
        distance: the objective between an output and the target's.
    """

    distance: Objective = squared_error

    def __call__(self, output: Any, targets: Any) -> Float[Tensor, "b"]:
        """Measure the distance of an output from the target's, one number a sample."""
        return self.distance(output, targets)


self_reference = SelfReference()
"""The squared error to the target's own output."""


def described(objective: Any) -> str:
    """Tell two objectives apart: by name, code, and the plain values that they hold."""
    if isinstance(objective, partial):
        return f"{described(objective.func)} {objective.args} {objective.keywords}"
    if isinstance(objective, SelfReference):
        return f"self reference by {described(objective.distance)}"
    code = getattr(objective, "__code__", None)
    if code is None:
        return f"{type(objective).__module__}.{type(objective).__qualname__}"
    held = [cell.cell_contents for cell in objective.__closure__ or ()]
    plain = [h for h in held if isinstance(h, bool | int | float | str | tuple | None)]
    body = hashlib.sha256(code.co_code + repr((code.co_names, plain)).encode())
    body.update(repr([c for c in code.co_consts if not hasattr(c, "co_code")]).encode())
    return f"{objective.__module__}.{objective.__qualname__} {body.hexdigest()}"


def check_callable(objective: object) -> None:
    """Refuse what cannot be called as an objective.

    Raises:
        ObjectiveError: naming what was found.
    """
    if not callable(objective):
        raise ObjectiveError(
            f"the objective is {objective!r}: expected a function of (output, targets) that gives "
            "one number a sample, such as paramattr.squared_error"
        )


def _summed(errors: Float[Tensor, "b *rest"]) -> Float[Tensor, "b"]:
    return errors.unsqueeze(-1).flatten(1).sum(1)  # also of (B,) alone


def _check_same_shape(name: str, output: Tensor, targets: Tensor) -> None:
    if not isinstance(targets, Tensor):
        raise ObjectiveError(
            f"{name} needs targets: expected a tensor of the output's shape "
            f"{tuple(output.shape)}, found {targets!r}; give them beside the inputs"
        )
    if output.shape != targets.shape:
        raise ObjectiveError(
            f"{name} needs targets of the output's shape: the output is {tuple(output.shape)}, "
            f"the targets are {tuple(targets.shape)}; reshape one of them"
        )

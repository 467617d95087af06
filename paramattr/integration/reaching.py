"""Rewritten operations that pass gradients where PyTorch's own cut them.

PyTorch's batch norm in evaluation mode gives its running statistics no gradient, and an embedding
cuts the gradient of its padding row. If these differ between two models, a path moves them, and
they share in the objective's change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paramattr.buffers import Statistics


def reaching(
    model: nn.Module, moving: Iterable[str] = (), *, by_rows: bool = False
) -> AbstractContextManager[Any]:
    """Replace operations that cut gradients while the model runs, if the model uses any.

    Args:
        model: the model that will run.
        moving: names of the buffers that move along the path.
        by_rows: whether an embedding's gradient is a sparse tensor of the rows that it read.
    """
    names = set(moving)
    if by_rows and any(isinstance(module, nn.Embedding) for module in model.modules()):
        return Reaching(by_rows=True)
    for path, module in model.named_modules():
        dot = f"{path}." if path else ""
        has_statistics = isinstance(module, Statistics)
        if has_statistics and names & {f"{dot}running_mean", f"{dot}running_var"}:
            return Reaching()
        if getattr(module, "padding_idx", None) is not None:
            return Reaching()
        if any(getattr(module, cut, False) is True for cut in ("scale_grad_by_freq", "sparse")):
            return Reaching()
    return nullcontext()


class Reaching(TorchFunctionMode):
    """A mode in which normalisation and embedding let every gradient through.

    Args:
        by_rows: as in `reaching`.
    """

    def __init__(self, *, by_rows: bool = False) -> None:
        super().__init__()
        self._embedding = partial(_embedding, by_rows=by_rows)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the rewritten operation if there is one, else the original."""
        if func is F.embedding:
            return self._embedding(*args, **(kwargs or {}))
        return _REWRITTEN.get(func, func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _normalised(input, running_mean, running_var, weight, bias, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats or running_mean is None or running_var is None:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    return _normalised(input, running_mean, running_var, weight, bias, eps)


def _normalised(
    input: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    def along(channels: Tensor) -> Tensor:
        return channels.reshape(1, -1, *[1] * (input.ndim - 2))

    scale = torch.rsqrt(variance + eps)
    output = (input - along(mean)) * along(scale if weight is None else scale * weight)
    return output if bias is None else output + along(bias)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
    *,
    by_rows: bool = False,
) -> Tensor:
    # What a weight is computed from by other operations needs a dense gradient.
    return F.embedding(input, weight, None, max_norm, norm_type, sparse=by_rows and weight.is_leaf)


def _embedding_bag(*args: Any, **kwargs: Any) -> Tensor:
    # In a bag, `padding_idx` names an entry that the sum leaves out, so it stays.
    return F.embedding_bag(*args, **{**kwargs, "scale_grad_by_freq": False, "sparse": False})


_REWRITTEN: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.embedding_bag: _embedding_bag,
}

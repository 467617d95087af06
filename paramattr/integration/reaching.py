"""Rewritten operations that pass gradients where PyTorch's own cut them.

PyTorch's batch norm in evaluation mode gives its running statistics no gradient, and an embedding
cuts the gradient of its padding row. If these differ between two models, a path moves them, and
they share in the objective's change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paramattr.buffers import Statistics


class Rows:
    """Gradients of the rows that embeddings read, beside the backward pass.

    A table's own gradient would be zero but for these rows, and as large as the table.

    Args:
        leaves: names to the weights whose gradients are taken.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._shapes = {name: leaf.shape for name, leaf in leaves.items()}
        self._found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def read(self, input: Tensor, weight: Tensor) -> Tensor | None:
        """Look rows up; None for a weight that is computed from others, or inside a transform."""
        name = self._names.get(id(weight))
        if name is None or torch._C._are_functorch_transforms_active():
            return None
        return _Lookup.apply(weight, input, name, self._found)

    def complete(self, name: str, gradient: Tensor) -> None:
        """Add a table's rows to the gradient from its other uses, in its place."""
        for rows, values in self._found.pop(name, ()):
            gradient.index_add_(0, rows, values.to(gradient.dtype))

    def rest(self) -> Iterator[tuple[str, Tensor]]:
        """Give the gradients of tables that have no other use, as sparse tensors."""
        for name, parts in self._found.items():
            rows, values = (torch.cat(part) for part in zip(*parts, strict=True))
            shape = self._shapes[name]
            yield name, torch.sparse_coo_tensor(rows[None], values, shape, check_invariants=False)


class _Lookup(torch.autograd.Function):
    """An embedding that hands its rows' gradients over, and gives its weight none."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, input: Tensor, name: str, found: Any) -> Tensor:
        ctx.save_for_backward(input)
        ctx.name, ctx.found = name, found
        return F.embedding(input, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, None]:
        [input] = ctx.saved_tensors
        values = gradient.reshape(-1, gradient.shape[-1])
        ctx.found.setdefault(ctx.name, []).append((input.flatten(), values))
        return None, None, None, None


def reaching(model: nn.Module, moving: Iterable[str] = ()) -> AbstractContextManager[Any]:
    """Replace operations that cut gradients while the model runs, if the model uses any.

    Args:
        model: the model that will run.
        moving: names of the buffers that move along the path.
    """
    names = set(moving)
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
        rows: what takes the gradients of embeddings; by default they are as dense as others.
    """

    def __init__(self, rows: Rows | None = None) -> None:
        super().__init__()
        self.rows = rows

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the rewritten operation if there is one, else the original."""
        if func is F.embedding:
            return _embedding(*args, **(kwargs or {}), rows=self.rows)
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
    rows: Rows | None = None,
) -> Tensor:
    found = None if rows is None or max_norm is not None else rows.read(input, weight)
    return F.embedding(input, weight, None, max_norm, norm_type) if found is None else found


def _embedding_bag(*args: Any, **kwargs: Any) -> Tensor:
    # In a bag, `padding_idx` names an entry that the sum leaves out, so it stays.
    return F.embedding_bag(*args, **{**kwargs, "scale_grad_by_freq": False, "sparse": False})


_REWRITTEN: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.embedding_bag: _embedding_bag,
}

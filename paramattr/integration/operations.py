"""Rewritten operations that pass gradients where PyTorch's own cut them.

PyTorch's batch norm in evaluation mode gives its running statistics no gradient, and an embedding
cuts the gradient of its padding row. If these differ between two models, a path moves them, and
they share in the objective's change. An embedding with `max_norm` writes shorter rows into its
weight while it runs; here it only reads them shorter, which gives the same output, leaves the
weight alone, and has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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
        # Inside a transform a leaf is wrapped, and its rows could not be told apart by sample.
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
    """Replace operations that cut gradients while the model runs, if the model may use any.

    Args:
        model: the model that will run.
        moving: names of the buffers that move along the path. A function of the model's own may
            take them as a norm's statistics.
    """
    # Any norm may read them.
    if next(iter(moving), None) is not None:
        return Reaching()
    for module in model.modules():
        if any(getattr(module, what, None) is not None for what in ("padding_idx", "max_norm")):
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
    # Batch statistics have gradients of their own: torch's operation is right there.
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

    # As torch's kernel computes it, so that the output is the same to rounding.
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
    # The padding row too: torch gives it no gradient, but it moved if it differs.
    found = None if rows is None else rows.read(input, weight)
    looked_up = F.embedding(input, weight) if found is None else found
    return looked_up if max_norm is None else _shortened(looked_up, max_norm, norm_type)


def _plain_embedding(weight: Tensor, indices: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.embedding(indices, weight)


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    **kwargs: Any,
) -> Tensor:
    # In a bag, `padding_idx` names an entry that the sum leaves out, so it stays.
    own = weight if max_norm is None else _shortened(weight, max_norm, norm_type)
    return F.embedding_bag(input, own, offsets, mode=mode, **kwargs)


def _shortened(rows: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """Give rows of at most a length, as PyTorch shortens them in place."""
    lengths = rows.norm(norm_type, dim=-1, keepdim=True)
    # The small number is torch's own: the output must be that of the shortened table.
    return torch.where(lengths > max_norm, rows * (max_norm / (lengths + 1e-7)), rows)


def _torch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Tensor:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


_REWRITTEN: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.embedding_bag: _embedding_bag,
    torch.batch_norm: _torch_batch_norm,
    torch.embedding: _plain_embedding,
}

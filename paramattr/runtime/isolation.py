"""Isolation: a model's output depends only on its input, and a call leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from paramattr.errors import ModelError
from paramattr.parameters import check_whole, is_shard


@contextmanager
def undisturbed(
    model: nn.Module, device: str | torch.device | None = None, *, sharded: bool = False
) -> Iterator[None]:
    """Restore the random state of torch, NumPy and Python afterwards, even after an error.

    This covers the CPU, the model's devices and `device`. The tensors that the model keeps in its
    modules while it runs are taken back too (see `restoring`). Inside the block, autograd records
    even if the caller had switched it off. Attention does not use its inference-only fast path,
    which treats padding differently.

    Args:
        model: the model that runs.
        device: where it computes.
        sharded: whether its parameters may be shards over several processes.

    Raises:
        ModelError: for shards where they may not be.
    """
    if not sharded:
        check_whole(model)
    gpus = {parameter.get_device() for parameter in model.parameters() if parameter.is_cuda}
    if device is not None and torch.device(device).type == "cuda":
        index = torch.device(device).index
        gpus.add(torch.cuda.current_device() if index is None else index)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            nullcontext() if any(map(is_shard, model.parameters())) else restoring(model),
            torch.random.fork_rng(devices=sorted(gpus)),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Give a model's modules back the modes and the tensors that they held.

    A cache or an average that a model keeps in an attribute while it runs is gone afterwards.
    Parameters and buffers are not copied; whoever runs the model passes it others. Counters and
    lists are left alone: people put them there to see what a model is given.
    """
    held = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in held:
            own = vars(module)
            module.training = attributes["training"]
            kept = {name for name, value in own.items() if isinstance(value, Tensor)}
            for name in kept | {n for n, value in attributes.items() if isinstance(value, Tensor)}:
                if name not in attributes:
                    del own[name]
                elif own.get(name) is not attributes[name]:
                    own[name] = attributes[name]


def check_evaluating(model: nn.Module) -> None:
    """Reject a model whose output for a sample depends on chance or on other samples.

    Raises:
        ModelError: naming the layer.
    """
    for path, module in model.named_modules():
        if module.training and _behaves_differently_in_training(module):
            raise ModelError(
                f"layer {path or 'model'!r} ({type(module).__name__}) is in training mode, where "
                "its output depends on chance or on the other samples: call model.eval() first"
            )

        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ModelError(
                f"layer {path or 'model'!r} ({type(module).__name__}) keeps no running statistics, "
                "so each sample's output depends on the others: expected samples that are "
                "independent; train it with track_running_stats=True, or use a group norm"
            )


def _behaves_differently_in_training(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.RReLU):
        return True
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return module.track_running_stats
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return False

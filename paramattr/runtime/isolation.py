"""Isolation: a model's output depends only on its input, and a call leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from paramattr.errors import ModelError
from paramattr.parameters import check_whole


@contextmanager
def undisturbed(
    model: nn.Module, device: str | torch.device | None = None, *, sharded: bool = False
) -> Iterator[None]:
    """Restore the random state of torch, NumPy and Python afterwards, even after an error.

    This covers the CPU, the model's devices and `device`. Inside the block, autograd records even
    if the caller had switched it off. Attention does not use its inference-only fast path, which
    treats padding differently.

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
            torch.random.fork_rng(devices=sorted(gpus)),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


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

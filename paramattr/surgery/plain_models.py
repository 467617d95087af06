"""Plain models: weights are parameters, and the classes say what is done with them."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from paramattr.errors import ModelError, one_line

_COMPUTED = (
    (WeightNorm, "weight norm", "torch.nn.utils.remove_weight_norm(layer, {!r})"),
    (SpectralNorm, "spectral norm", "torch.nn.utils.remove_spectral_norm(layer, {!r})"),
    (prune.BasePruningMethod, "pruning", "torch.nn.utils.prune.remove(layer, {!r})"),
)
"""Hooks that compute a weight before a layer runs, and what makes it a parameter again."""


def copied(model: nn.Module) -> nn.Module:
    """Copy a model.

    Raises:
        ModelError: if it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the model's parts raise
        raise ModelError(
            f"the model ({type(model).__name__}) cannot be copied ({one_line(error)}): expected "
            "one that copy.deepcopy can copy; build it anew and load its state dict"
        ) from error


def check_weights(model: nn.Module, role: str) -> None:
    """Refuse weights that are computed from other parameters: they cannot be written to.

    Raises:
        ModelError: naming the layer, and what makes its weight a parameter again.
    """
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            for kind, how, way_out in _COMPUTED:
                if isinstance(hook, kind):
                    tensor = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight")
                    raise _computed(name, role, how, way_out.format(tensor))
        if parametrize.is_parametrized(module):
            tensor = next(iter(module.parametrizations))
            way_out = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {tensor!r})"
            raise _computed(name, role, "parametrization", way_out)


def check_code(model: nn.Module) -> None:
    """Refuse a model that does more than its classes say, which no trace shows.

    Raises:
        ModelError: naming the hook or the method, and the way out.
    """
    for name, module in model.named_modules():
        what = f"layer {name!r}" if name else f"the model ({type(module).__name__})"
        if module._forward_hooks or module._forward_pre_hooks:
            raise ModelError(
                f"{what} has a forward hook, which may do anything to its channels: expected a "
                "model without; remove the hook (handle.remove()), and set it on the aligned model"
            )
        if "forward" in vars(module):
            raise ModelError(
                f"{what} has a forward of its own, which its class has not: expected a model that "
                "does what its classes say; give that forward to a subclass"
            )


def _computed(name: str, role: str, how: str, way_out: str) -> ModelError:
    return ModelError(
        f"layer {name!r} of the {role} computes its weights anew in every pass ({how}): expected "
        f"weights that are plain parameters; make them so in both models, with {way_out}"
    )

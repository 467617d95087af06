"""Weights that torch's older hooks assemble before each pass, and copies of models that hold them.

`torch.nn.utils.weight_norm`, `spectral_norm` and `prune` keep the parts of a weight as parameters,
and set the weight itself as a plain attribute whenever the module runs. It is no leaf of autograd
then, so `copy.deepcopy` refuses the model, and it changes with each pass on other values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from paramattr.errors import ModelError, one_line


class Hooked(NamedTuple):
    """A weight that a hook assembles.

    Attributes:
        module: what holds it.
        name: the attribute that the hook sets.
        parts: the parameters that it is assembled from; the last has the weight's shape.
        hook: the hook.
    """

    module: nn.Module
    name: str
    parts: tuple[str, ...]
    hook: Any

    def assemble(self) -> None:
        """Set the weight from its parts as they are now."""
        with torch.no_grad():
            if isinstance(self.hook, SpectralNorm):  # called, it would change its buffers
                weight = self.hook.compute_weight(self.module, do_power_iteration=False)
            elif isinstance(self.hook, WeightNorm):
                weight = self.hook.compute_weight(self.module)
            else:
                weight = self.hook.apply_mask(self.module)
            setattr(self.module, self.name, weight)


def hooked(module: nn.Module) -> Iterator[Hooked]:
    """List the weights that hooks of a module assemble."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield Hooked(module, hook.name, (f"{hook.name}_g", f"{hook.name}_v"), hook)
        elif isinstance(hook, SpectralNorm):
            yield Hooked(module, hook.name, (f"{hook.name}_orig",), hook)
        elif isinstance(hook, BasePruningMethod):
            name = hook._tensor_name
            yield Hooked(module, name, (f"{name}_orig",), hook)


def all_hooked(model: nn.Module) -> list[Hooked]:
    """List the weights that hooks assemble in all modules of a model."""
    return [one for module in model.modules() for one in hooked(module)]


@contextmanager
def as_assembled(weights: Sequence[Hooked]) -> Iterator[None]:
    """Give the modules their assembled weights back afterwards; the parts are not touched."""
    held = [(one, getattr(one.module, one.name)) for one in weights]
    try:
        yield
    finally:
        for one, weight in held:
            setattr(one.module, one.name, weight)  # recurrent layers keep a list of theirs


def copied(model: nn.Module, same: Mapping[int, Tensor] | None = None) -> nn.Module:
    """Copy a model, also where modules keep tensors of an earlier pass, such as these weights.

    Args:
        model: the model.
        same: tensors by their `id` that the copy shares.

    Raises:
        ModelError: if its modules cannot be copied.
    """
    memo: dict[int, Any] = dict(same or {})
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        made: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:  # modules may hold anything
        raise ModelError(
            f"the model ({type(model).__name__}) cannot be copied ({one_line(error)}): expected "
            "modules that copy.deepcopy can copy; take off what they keep of an earlier pass"
        ) from error
    return made

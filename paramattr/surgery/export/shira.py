"""A selection as the mask function of PEFT's SHiRA, an adapter of chosen entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import ModelError, UnitError, warn
from paramattr.surgery.export.masks import Layer, layers_of, peft
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped

MaskFunction = Callable[..., Float[Tensor, "out in"]]
"""Type of `ShiraConfig.mask_fn`: from a layer and `r` to a mask of zeros and ones."""


def shira_config(model: nn.Module, selection: Selection, **options: Any) -> Any:
    """Make a `ShiraConfig` whose mask function marks the selected entries of linear layers.

    PEFT wants `r (m + n)` entries in each layer of `m` rows and `n` columns, with one `r` for all.
    It is the smallest that takes in as many of the selected entries as any does. The rest of each
    layer's mask is filled with entries that are not selected; `train_only_selected` keeps these at
    zero::

        adapted = peft.get_peft_model(model, shira_config(model, selection))
        train_only_selected(adapted, selection)

    Args:
        model: the model that will be adapted: the mask function knows the layers of this one alone.
        selection: the units.
        options: other arguments of `ShiraConfig`.

    Returns:
        A `peft.ShiraConfig` with `r`, `target_modules` and `mask_fn`.

    Raises:
        UnitError: if no linear layer holds a selected entry, or the selection is of another model.
        ParamattrError: if PEFT is not installed.

    Warns:
        UserWarning: of the selected entries that find no place: those of other layers and of
            biases, and those of a layer that is selected nearly whole, or too small for `r`.

    Source: Bhardwaj et al. 2024, "Sparse High Rank Adapters", Sec. 3.1.
    """
    library, model = peft(), unwrapped(model)
    layers = layers_of(model, selection, _is_linear, "SHiRA")
    size = _size(layers)
    placed = [layer for layer in layers if size <= _most(layer)]
    lost = sum(layer.selected for layer in layers) - _covered(layers, size)
    if lost:
        warn(
            f"{lost} selected entries of linear layers find no place in SHiRA's r = {size}, which "
            "is one for all layers: they are left out; export layers of very different sizes, or "
            "such as are selected whole, by themselves"
        )
    config = library.ShiraConfig(r=size, target_modules=[layer.path for layer in placed], **options)
    config.mask_type = "paramattr"  # set later: the constructor warns of names it does not know
    config.mask_fn = mask_function(placed)
    return config


def mask_function(layers: list[Layer]) -> MaskFunction:
    """Make the function that gives PEFT the mask of each of these layers.

    Args:
        layers: those that are adapted.
    """
    known = WeakKeyDictionary({layer.module: layer.mask for layer in layers})

    def selected_first(base_layer: nn.Module, r: int, **_: Any) -> Float[Tensor, "out in"]:
        if base_layer not in known:
            raise ModelError(
                f"this {type(base_layer).__name__} is no layer of the model that the mask was made "
                "for: give get_peft_model the very model that shira_config was given"
            )
        marked, weight = known[base_layer].flatten(), base_layer.get_parameter("weight")
        order = torch.sort(marked.to(torch.uint8), descending=True, stable=True).indices
        mask = torch.zeros(weight.numel(), dtype=weight.dtype, device=weight.device)
        mask[order[: r * sum(weight.shape)].to(weight.device)] = 1
        return mask.view(weight.shape)

    return selected_first


def train_only_selected(adapted: nn.Module, selection: Selection) -> int:
    """Keep SHiRA's entries outside the selection at zero, in training too.

    Their gradients become zero, so that an optimiser leaves them where they start: at zero.

    Args:
        adapted: model that `peft.get_peft_model` gave for `shira_config`.
        selection: the units.

    Returns:
        How many entries are left to train.

    Raises:
        ModelError: if the model has no SHiRA adapter.
    """
    left, layers = 0, 0
    for path, layer in unwrapped(adapted).named_modules():
        for name, weight in getattr(layer, "shira_weight", {}).items():
            where = layer.shira_indices[name].long().cpu()
            inside = selection.mask(f"{path}.weight")[tuple(where)].to(weight.device)
            weight.register_hook(partial(torch.mul, inside))
            left, layers = left + int(inside.sum()), layers + 1
    if not layers:
        raise ModelError(
            f"the model ({type(adapted).__name__}) has no SHiRA adapter: expected what "
            "peft.get_peft_model(model, shira_config(model, selection)) gives"
        )
    return left


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear


def _size(layers: list[Layer]) -> int:
    wanted = {min(math.ceil(own.selected / sum(own.sides)), _most(own)) for own in layers}
    sizes = sorted(size for size in wanted if size)
    if not sizes:
        raise UnitError(
            "every layer of the selection is too small for SHiRA, which wants at least as many "
            "entries as a layer has rows and columns: select units of larger layers"
        )
    return max(sizes, key=lambda size: (_covered(layers, size), -size))


def _most(layer: Layer) -> int:
    """The largest `r` that PEFT takes for a layer."""
    return layer.mask.numel() // sum(layer.sides)


def _covered(layers: list[Layer], size: int) -> int:
    fit = [layer for layer in layers if size <= _most(layer)]
    return sum(min(layer.selected, size * sum(layer.sides)) for layer in fit)

"""Masks of a selection, by layer, for pruning and for other tools."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from paramattr.errors import ParamattrError, UnitError, warn
from paramattr.parameters import owners
from paramattr.surgery.edits import check_selection
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped


@dataclass(frozen=True)
class Layer:
    """A layer whose weight holds selected entries.

    Attributes:
        path: the layer's name in the model.
        module: the layer.
        mask: mask of its weight, True in the selected entries.
    """

    path: str
    module: nn.Module
    mask: Bool[Tensor, "..."]

    @property
    def selected(self) -> int:
        """Number of entries that are selected."""
        return int(self.mask.sum())

    @property
    def sides(self) -> tuple[int, int]:
        """Numbers of rows and columns of the weight, as a matrix."""
        rows, *rest = self.mask.shape
        return rows, math.prod(rest)


def layers_of(
    model: nn.Module, selection: Selection, fits: Callable[[nn.Module], bool], what: str
) -> list[Layer]:
    """Find the layers that an adapter can be put on.

    Args:
        model: the model.
        selection: the units.
        fits: function that says whether an adapter knows a layer.
        what: the adapter's name, for messages.

    Raises:
        UnitError: if no such layer holds a selected entry, or the selection is of another model.

    Warns:
        UserWarning: of the selected entries that lie elsewhere, such as in biases.
    """
    check_selection(model, selection)
    found, elsewhere = list[Layer](), dict[str, int]()
    for name, (place, *_) in owners(model).items():
        mask = selection.mask(name) if name in selection.index.shapes else None
        if mask is None or not bool(mask.any()):
            continue
        if place.attribute == "weight" and fits(place.module):
            found.append(Layer(place.path, place.module, mask))
        else:
            elsewhere[name] = int(mask.sum())
    if not found:
        raise UnitError(
            f"no layer that {what} knows holds a selected entry: found "
            f"{', '.join(map(repr, list(elsewhere)[:3])) or 'buffers alone'}; select units that "
            "hold weights of linear layers, such as 'neuron' or 'attention_head'"
        )
    if elsewhere:
        inside, outside = sum(layer.selected for layer in found), sum(elsewhere.values())
        warn(
            f"{outside} of {inside + outside} selected entries lie in no layer that {what} knows, "
            f"such as {next(iter(elsewhere))!r}: they are left out"
        )
    return found


def peft() -> Any:
    """Import PEFT.

    Raises:
        ParamattrError: if it is not installed.
    """
    try:
        return __import__("peft")
    except ImportError:
        raise ParamattrError(
            'adapters need PEFT, which is not installed: pip install "paramattr[hf]"'
        ) from None


def masks(selection: Selection) -> dict[str, Bool[Tensor, "..."]]:
    """Give a selection as a boolean state dict, which `save_state_dict` writes.

    Args:
        selection: the units.

    Returns:
        The name of each parameter, and of each buffer with units, to a mask of its shape: True
        where the entry lies in a selected unit. A tied parameter goes by its first name.

    >>> import torch
    >>> from paramattr import Scores, UnitIndex
    >>> index = UnitIndex.of(nn.Linear(2, 2), "output_channel")
    >>> masks(Scores(index, torch.tensor([0.0, 1.0])).top(count=1))["weight"].tolist()
    [[False, False], [True, True]]
    """
    names = dict.fromkeys((*selection.index.shapes, *selection.index.buffers))
    return {name: selection.mask(name) for name in names}


def pruning_masks(
    model: nn.Module, selection: Selection
) -> list[tuple[nn.Module, str, Bool[Tensor, "..."]]]:
    """Give the arguments with which torch prunes the selected entries.

    Pruned entries are zero::

        for module, name, mask in pruning_masks(model, selection):
            torch.nn.utils.prune.custom_from_mask(module, name, mask)

    Args:
        model: the model that will be pruned.
        selection: the units to prune; `~selection` prunes all other units.

    Returns:
        For each parameter with a selected entry: the module that holds it, its name there, and a
        mask that is False in the selected entries. A tied parameter is listed for each of its
        modules. Buffers are not pruned.

    Raises:
        UnitError: if the selection holds no entry of a parameter, or belongs to another model.
    """
    model = unwrapped(model)
    check_selection(model, selection)
    found = []
    for name, places in owners(model).items():
        mask = selection.mask(name) if name in selection.index.shapes else None
        if mask is not None and bool(mask.any()):
            kept = ~mask.to(model.get_parameter(name).device)
            found += [(place.module, place.attribute, kept) for place in places]
    if not found:
        raise UnitError(
            "the selection holds no entry of a parameter: there is nothing to prune; select a unit "
            "that holds parameters"
        )
    return found

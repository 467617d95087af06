"""Masks of a selection: a boolean state dict, and what `torch.nn.utils.prune` takes."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor, nn

from paramattr.errors import UnitError
from paramattr.parameters import owners
from paramattr.surgery.edits import check_selection
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped


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

"""The change in the selected units, alone: a sparse task vector."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import UnitError
from paramattr.parameters import Baseline, align, moving_buffers, named_parameters
from paramattr.surgery.edits import check_selection
from paramattr.surgery.export.masks import peft
from paramattr.surgery.export.shira import shira_config, train_only_selected
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped, unwrapped_pair


def task_vector(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> dict[str, Tensor]:
    """Subtract the baseline from the target in the selected entries; all others are zero.

        τ_i = target_i - baseline_i where i is selected, else 0

    `save_state_dict` writes it. Added to the baseline it gives the selected part of the
    fine-tuning; subtracted from the target it takes that part away, as `substitute` does, up to
    rounding.

    Args:
        model: the target.
        baseline: model that it was tuned from, or a mapping of names to tensors.
        selection: the units.
        strict: whether the two must have the same parameters, as in `FAIG`.

    Returns:
        The name of each parameter with a selected entry, and of each buffer that differs and has
        one, to a tensor of its shape and precision.

    Raises:
        ModelError: if the two models differ in architecture.
        UnitError: if the selection is empty, or belongs to another model.

    Source: Ilharco et al. 2022, "Editing Models with Task Arithmetic", Sec. 2.

    >>> from paramattr import Scores, UnitIndex
    >>> target, baseline = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(target.weight, 3.0), nn.init.constant_(baseline.weight, 1.0)
    >>> scores = Scores(UnitIndex.of(target, "scalar"), torch.tensor([0.0, 1.0]))
    >>> task_vector(target, baseline, scores.top(count=1))["weight"]
    tensor([[0., 2.]])
    """
    model, baseline = unwrapped_pair(model, baseline)
    check_selection(model, selection)
    buffers = moving_buffers(model, baseline)
    there = align(model, baseline, strict=strict, quiet=True) | buffers
    here = named_parameters(model) | {name: model.get_buffer(name) for name in buffers}
    found = {}
    for name in (*selection.index.shapes, *selection.index.buffers):
        mask = selection.mask(name) if name in there else None
        if mask is not None and bool(mask.any()):
            change = here[name] - there[name]
            found[name] = torch.where(mask.to(change.device), change, torch.zeros_like(change))
    if not found:
        raise UnitError("the selection is empty: there is no change to export; select a unit")
    return found


def task_adapter(model: nn.Module, baseline: nn.Module, selection: Selection) -> Any:
    """Put the change in the selected units on the baseline, as a SHiRA adapter of PEFT.

    The adapter is a task vector that keeps the places and values of few entries::

        adapter = task_adapter(target, baseline, selection)
        adapter.save_pretrained("change")                     # read by PeftModel.from_pretrained

    `set_scale` of its layers, such as -1, negates it, and `merge_and_unload` adds it. The entries
    that fill PEFT's mask up are zero.

    Args:
        model: the target.
        baseline: model that it was tuned from; it is copied.
        selection: the units. What lies outside linear layers is left out.

    Returns:
        A `peft.PeftModel` of a copy of the baseline.

    Raises:
        ModelError: if the two models differ in architecture.
        UnitError: if no linear layer holds a selected entry, or the selection is of another model.
        ParamattrError: if PEFT is not installed.

    Warns:
        UserWarning: as in `shira_config`.
    """
    library, (model, baseline) = peft(), unwrapped_pair(model, baseline)
    changes = task_vector(model, baseline, selection)
    copied = copy.deepcopy(baseline)
    config = shira_config(copied, selection)
    adapted = library.get_peft_model(copied, config)
    train_only_selected(adapted, selection)
    with torch.no_grad():
        for path, layer in unwrapped(adapted).named_modules():
            for name, weight in getattr(layer, "shira_weight", {}).items():
                where = layer.shira_indices[name].long()
                weight.copy_(changes[f"{path}.weight"].to(weight.device)[tuple(where)])
    return adapted.eval()

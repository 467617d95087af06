"""Edits of a model by a selection: substitute, insert, modulate."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn

from paramattr.errors import ModelError, UnitError
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.units.index import UnitIndex
from paramattr.units.selection import Selection


def substitute(model: nn.Module, baseline: Baseline, selection: Selection) -> nn.Module:
    """Put the baseline's values in the place of the selected entries ("masking" in the paper).

    Args:
        model: the target, left as it is.
        baseline: where the values come from, or a mapping of names to tensors.
        selection: what is substituted. Nothing gives the target, everything the baseline, to the
            bit; buffers stay the target's.

    Returns:
        A new module.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: if the selection is of another model's units.

    Source: Xie et al. 2021, Sec. 5.2.1.
    """
    return modulate(model, baseline, selection, 0.0)


def modulate(
    model: nn.Module, baseline: Baseline, selection: Selection, strength: float
) -> nn.Module:
    """Blend the selected entries: strength * target + (1 - strength) * baseline.

    Args:
        model: the target, left as it is.
        baseline: what is blended with, or a mapping of names to tensors.
        selection: what is blended.
        strength: 0 gives `substitute`, 1 the target, both to the bit; above 1 the function
            found is exaggerated.

    Returns:
        A new module.

    Raises:
        ModelError: if the two are not of one architecture, or `strength` is not finite.
        UnitError: if the selection is of another model's units.
    """
    if not isinstance(strength, Real) or not math.isfinite(strength):
        raise ModelError(
            f"strength is {strength!r}: expected a finite number, 0 for the baseline's values and "
            "1 for the target's"
        )
    other = align(model, baseline)
    edited = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks_of(model, selection):
            own = edited.get_parameter(name)
            blended = torch.lerp(other[name], own, float(strength))
            own.copy_(torch.where(mask.to(own.device), blended, own))
    return edited


@contextmanager
def substituted(model: nn.Module, baseline: Baseline, selection: Selection) -> Iterator[nn.Module]:
    """Substitute in place for the length of a `with` block, and restore to the bit after it.

    The same edit as `substitute`, without a copy of the model::

        with substituted(target, baseline, found):
            outputs = target(inputs)

    Args:
        model: the target; edited inside the block, as it was after it, also after an error.
        baseline: as in `substitute`.
        selection: as in `substitute`.

    Yields:
        The model itself.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: if the selection is of another model's units.
    """
    own, other = named_parameters(model), align(model, baseline)
    values = {
        name: torch.where(mask.to(own[name].device), other[name], own[name])
        for name, mask in masks_of(model, selection)
    }
    with holding(model, values):
        yield model


@contextmanager
def inserted(model: nn.Module, baseline: Baseline, selection: Selection) -> Iterator[nn.Module]:
    """Make the model the baseline in place, but for the selected entries, and restore it after.

    The counterpart of `substituted`: only what is selected stays the target's, so every parameter
    without a unit (biases, for kernels) is the baseline's. Buffers stay the target's.

    Args:
        model: the target; edited inside the block, as it was after it, also after an error.
        baseline: as in `substitute`.
        selection: what stays the target's.

    Yields:
        The model itself.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: if the selection is of another model's units.
    """
    own, values = named_parameters(model), align(model, baseline)
    for name, mask in masks_of(model, selection):
        values[name] = torch.where(mask.to(own[name].device), own[name], values[name])
    with holding(model, values):
        yield model


@contextmanager
def holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Hold other values of some parameters in place, and restore their own to the bit after it.

    Args:
        model: edited inside the `with` block.
        values: names of parameters to tensors of their shapes.
    """
    parameters = {name: model.get_parameter(name) for name in values}
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def check_units(model: nn.Module, index: UnitIndex) -> None:
    """Refuse units of another model.

    Raises:
        UnitError: naming the first parameter that differs.
    """
    shapes = {name: tuple(value.shape) for name, value in named_parameters(model).items()}
    if shapes != index.shapes:
        differing = [
            name
            for name in {**shapes, **index.shapes}
            if shapes.get(name) != index.shapes.get(name)
        ]
        raise UnitError(
            f"the selection is of another model: parameter {differing[0]!r} is "
            f"{shapes.get(differing[0], 'missing')} here and "
            f"{index.shapes.get(differing[0], 'missing')} there; select on this model"
        )


def masks_of(model: nn.Module, selection: Selection) -> Iterator[tuple[str, Tensor]]:
    """Give the parameters that have units, each with the mask of its selected entries.

    Raises:
        UnitError: for anything but a selection of this model's units.
    """
    if not isinstance(selection, Selection):
        raise UnitError(
            f"the selection is a {type(selection).__name__}: expected a Selection, such as "
            "scores.top(fraction=0.01)"
        )
    check_units(model, selection.index)
    for name in selection.index.labels:
        yield name, selection.mask(name)

"""Editing models with a selection: substitute, insert, modulate, retrain only these."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paramattr.errors import ModelError, UnitError
from paramattr.parameters import Baseline, align, named_parameters, owners
from paramattr.selection import Selection
from paramattr.units import UnitIndex


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
        for name, mask in _masks(model, selection):
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
        for name, mask in _masks(model, selection)
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
    for name, mask in _masks(model, selection):
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


def retrain_only(model: nn.Module, selection: Selection) -> nn.Module:
    """Make the selected entries, and nothing else, trainable under any optimiser.

    The selected entries of each parameter become one small vector, and the parameter is put
    together from it and the frozen rest at each use. So every other entry stays the same to the
    bit, under weight decay and momentum too, and an optimiser's state is of the selection's size::

        trainable = retrain_only(model, selection)
        optimiser = torch.optim.AdamW(trainable.parameters())
        ...
        model.load_state_dict(trainable.state_dict())  # the plain names and shapes

    Args:
        model: left as it is.
        selection: what is to be trained.

    Returns:
        A new module of the same behaviour. Its `state_dict()` has the original's names and
        shapes, and it loads such. Buffers (batch norm's statistics) are not held back: put
        those layers in evaluation mode.

    Raises:
        UnitError: if the selection is empty, or of another model's units.

    Source: Xie et al. 2021, Sec. 5.2.2.
    """
    if not len(selection):
        raise UnitError("the selection is empty: there is nothing to train; select a unit at least")
    masks = dict(_masks(model, selection))
    trainable = copy.deepcopy(model)
    places = owners(trainable)
    paths: dict[int, list[str]] = {}  # a module may stand in several places
    for path, module in trainable.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    names: list[tuple[str, str]] = []  # of the plain parameter, and of what it is put together from
    for name, parameter in list(trainable.named_parameters()):
        parameter.requires_grad_(False)
        if name not in masks or not masks[name].any():
            continue
        entries = _Entries(parameter, masks[name])
        for owner in places[name]:  # a tied parameter stays tied: they share the entries
            parametrize.register_parametrization(owner.module, owner.attribute, entries)
            if isinstance(owner.module, nn.RNNBase):
                _keep_no_weights(owner.module)
            for path in paths[id(owner.module)]:
                dot = f"{path}." if path else ""
                inner = f"{dot}parametrizations.{owner.attribute}"
                names.append((f"{dot}{owner.attribute}", inner))
    # Saved and loaded under the names of the plain model.
    trainable.register_state_dict_post_hook(partial(_after_saving, names, list(model.state_dict())))
    trainable.register_load_state_dict_pre_hook(partial(_before_loading, names))
    return trainable


class _Entries(nn.Module):
    """A parameter put together from its frozen values and a vector of trainable entries."""

    places: Tensor

    def __init__(self, parameter: Tensor, mask: Tensor) -> None:
        super().__init__()
        places = mask.flatten().nonzero().squeeze(1).to(parameter.device)
        self.register_buffer("places", places, persistent=False)
        self.values = nn.Parameter(parameter.detach().flatten()[places].clone())

    def forward(self, frozen: Tensor) -> Tensor:
        flat = frozen.reshape(-1).index_put((self.places,), self.values)
        return flat.view(frozen.shape)


def _keep_no_weights(module: nn.RNNBase) -> None:
    # Recurrent layers keep a list of their weights, which are put together anew at each use: one
    # that outlives the use would hold its graph, and could not be copied.
    if module._flat_weights:
        module.register_forward_pre_hook(_list_weights)
        module.register_forward_hook(_forget_weights)
        module._flat_weights = []


def _list_weights(module: nn.RNNBase, inputs: Any) -> None:
    module._init_flat_weights()


def _forget_weights(module: nn.RNNBase, inputs: Any, output: Any) -> None:
    module._flat_weights = []


def _after_saving(
    names: list[tuple[str, str]],
    order: list[str],
    module: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    local_metadata: Any,
) -> None:
    values = {plain: _value(module, plain) for plain, _ in names}
    for plain, inner in names:
        state.pop(f"{prefix}{inner}.original")
        state.pop(f"{prefix}{inner}.0.values")
        state[prefix + plain] = values[plain]
    for name in order:  # as the plain model's
        state[prefix + name] = state.pop(prefix + name)


def _before_loading(
    names: list[tuple[str, str]],
    module: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    *_: Any,
) -> None:
    for plain, inner in names:
        if prefix + plain in state:
            value = state.pop(prefix + plain)
            places = module.get_buffer(f"{inner}.0.places").to(value.device)
            state[f"{prefix}{inner}.original"] = value
            if value.shape == module.get_parameter(f"{inner}.original").shape:  # else torch says so
                state[f"{prefix}{inner}.0.values"] = value.flatten()[places]


def _value(module: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    value: Tensor = getattr(module.get_submodule(path), attribute)
    return value.detach()


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


def _masks(model: nn.Module, selection: Selection) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(selection, Selection):
        raise UnitError(
            f"the selection is a {type(selection).__name__}: expected a Selection, such as "
            "scores.top(fraction=0.01)"
        )
    check_units(model, selection.index)
    for name in selection.index.labels:
        yield name, selection.mask(name)

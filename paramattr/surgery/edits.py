"""Edits of a model by a selection: substitute, insert, modulate."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from paramattr.buffers import Statistics, float_buffers, moving_buffers
from paramattr.errors import ModelError, UnitError
from paramattr.parameters import Baseline, align, named_parameters, owners, state_of
from paramattr.units.index import UnitIndex
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped, unwrapped_pair


def substitute(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> nn.Module:
    """Put the baseline's values in the place of the selected entries ("masking" in the paper).

    Buffers with units, such as a batch norm's statistics, take part. A buffer of whole numbers,
    such as `num_batches_tracked`, is the baseline's where all that its module holds is selected.

    Args:
        model: the target, left as it is.
        baseline: where the values come from, or a mapping of names to tensors; buffers that a
            mapping lacks stay the target's.
        selection: what is substituted. Nothing gives the target, and everything, where every entry
            has a unit (`"layer"`, `"scalar"`), the baseline, both bit for bit.
        strict: as in `FAIG`: if False, what only one model has stays the target's.

    Returns:
        A new module, without wrappers such as `torch.compile` and `DataParallel`.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: if the selection is of another model's units.

    Source: Xie et al. 2021, Sec. 5.2.1.
    """
    return modulate(model, baseline, selection, 0.0, strict=strict)


def modulate(
    model: nn.Module,
    baseline: Baseline,
    selection: Selection,
    strength: float,
    *,
    strict: bool = True,
) -> nn.Module:
    """Blend the selected entries: strength * target + (1 - strength) * baseline.

    Args:
        model: the target, left as it is.
        baseline: what is blended with, or a mapping of names to tensors.
        selection: what is blended, buffers with units included.
        strength: 0 gives `substitute`, 1 the target, both bit for bit; above 1 the function
            found is exaggerated.
        strict: as in `substitute`.

    Returns:
        A new module, without wrappers such as `torch.compile` and `DataParallel`.

    Raises:
        ModelError: if the two are not of one architecture, `strength` is not finite, or a running
            variance would become negative.
        UnitError: if the selection is of another model's units.
    """
    if not isinstance(strength, Real) or not math.isfinite(strength):
        raise ModelError(
            f"strength is {strength!r}: expected a finite number, 0 for the baseline's values and "
            "1 for the target's"
        )
    pair = _Pair(*unwrapped_pair(model, baseline), strict=strict)
    values = {}
    for name, mask in pair.masks(selection):
        own = pair.own[name]
        blended = torch.lerp(pair.other[name], own, float(strength))
        values[name] = torch.where(mask, blended, own)
        pair.check_variance(name, values[name], float(strength))
    if strength == 0:
        values |= pair.counters(selection, selected=True)
    edited = copy.deepcopy(pair.model)
    tensors = _tensors(edited)
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)
    return edited


@contextmanager
def substituted(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> Iterator[nn.Module]:
    """Substitute in place for the length of a `with` block, and restore bit for bit after it.

    The same edit as `substitute`, without a copy of the model::

        with substituted(target, baseline, found):
            outputs = target(inputs)

    Args:
        model: the target; edited inside the block, as it was after it, also after an error.
        baseline: as in `substitute`.
        selection: as in `substitute`.
        strict: as in `substitute`.

    Yields:
        The model itself.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: if the selection is of another model's units.
    """
    pair = _Pair(unwrapped(model), unwrapped(baseline), strict=strict)
    values = {
        name: torch.where(mask, pair.other[name], pair.own[name])
        for name, mask in pair.masks(selection)
    }
    with holding(pair.model, values | pair.counters(selection, selected=True)):
        yield model


@contextmanager
def inserted(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> Iterator[nn.Module]:
    """Make the model the baseline in place, but for the selected entries, and restore it after.

    The counterpart of `substituted`: only what is selected stays the target's, so every parameter
    without a unit (biases, for kernels) is the baseline's, and so is every such buffer.

    Args:
        model: the target; edited inside the block, as it was after it, also after an error.
        baseline: as in `substitute`.
        selection: what stays the target's.
        strict: as in `substitute`.

    Yields:
        The model itself.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: if the selection is of another model's units.
    """
    pair = _Pair(unwrapped(model), unwrapped(baseline), strict=strict)
    values = dict(pair.other)
    for name, mask in pair.masks(selection):
        values[name] = torch.where(mask, pair.own[name], pair.other[name])
    with holding(pair.model, values | pair.counters(selection, selected=False)):
        yield model


@contextmanager
def holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Hold other values of some parameters and buffers in place, and restore their own after it.

    Args:
        model: edited inside the `with` block, as it was bit for bit after it.
        values: names of parameters and buffers to tensors of their shapes.
    """
    every = _tensors(model)
    tensors = {name: every[name] for name in values}
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(kept[name])
                path, _, attribute = name.rpartition(".")
                buffers = model.get_submodule(path)._buffers
                if attribute in buffers:  # a forward may have put another in its place
                    buffers[attribute] = tensor


def check_units(model: nn.Module, index: UnitIndex) -> None:
    """Refuse units of another model.

    Raises:
        UnitError: naming the first parameter or buffer that differs.
    """
    shapes = {name: tuple(value.shape) for name, value in named_parameters(model).items()}
    own = {n: tuple(b.shape) for n, b in float_buffers(model).items() if n in index.buffers}
    shapes |= own
    other = index.shapes | {name: placed.shape for name, placed in index.buffers.items()}
    if shapes != other:
        differing = [n for n in {**shapes, **other} if shapes.get(n) != other.get(n)]
        what = "buffer" if differing[0] in index.buffers else "parameter"
        raise UnitError(
            f"the selection is of another model: {what} {differing[0]!r} is "
            f"{shapes.get(differing[0], 'missing')} here and "
            f"{other.get(differing[0], 'missing')} there; select on this model"
        )


def check_selection(model: nn.Module, selection: Selection) -> None:
    """Refuse anything but a selection of this model's units.

    Raises:
        UnitError: saying what was found.
    """
    if not isinstance(selection, Selection):
        raise UnitError(
            f"the selection is a {type(selection).__name__}: expected a Selection, such as "
            "scores.top(fraction=0.01)"
        )
    check_units(model, selection.index)


class _Pair:
    """The values of two models by name: all parameters, and the buffers that differ."""

    def __init__(self, model: nn.Module, baseline: Baseline, *, strict: bool = True) -> None:
        self.model, self.baseline = model, baseline
        self.other = align(model, baseline, strict=strict, quiet=True)
        self.other |= moving_buffers(model, baseline)
        every = named_parameters(model) | float_buffers(model)
        self.own = {name: every[name] for name in self.other}

    def masks(self, selection: Selection) -> Iterator[tuple[str, Bool[Tensor, "..."]]]:
        """Give what has units, each with the mask of its selected entries."""
        check_selection(self.model, selection)
        for name in (*selection.index.labels, *selection.index.buffers):
            if name in self.own:
                yield name, selection.mask(name).to(self.own[name].device)

    def counters(self, selection: Selection, *, selected: bool) -> dict[str, Tensor]:
        """Give the baseline's other buffers, where they differ and their module is selected.

        A module is selected if all that it holds is, and one that holds nothing if all of the model
        is. With `selected=False` the buffers of all other modules are given.
        """
        other = state_of(self.baseline)
        if isinstance(self.baseline, nn.Module):
            other |= {name: buffer.detach() for name, buffer in self.baseline.named_buffers()}
        found = {}
        floating = float_buffers(self.model)
        whole = self._whole(selection)
        for name, buffer in self.model.named_buffers():
            value = other.get(name)
            if name in floating or value is None:
                continue
            if value.shape != buffer.shape or torch.equal(value.to(buffer), buffer):
                continue
            path = name.rpartition(".")[0]
            if whole.get(path, all(whole.values())) == selected:
                found[name] = value.detach().to(buffer)
        return found

    def check_variance(self, name: str, values: Tensor, strength: float) -> None:
        """Refuse a running variance below zero."""
        path, _, attribute = name.rpartition(".")
        if attribute != "running_var" or not bool((values < 0).any()):
            return
        if isinstance(self.model.get_submodule(path), Statistics):
            channel = int(values.argmin())
            raise ModelError(
                f"strength {strength:g} makes buffer {name!r} {float(values[channel]):.3g} in "
                f"channel {channel}: a variance is not negative; the target's is "
                f"{float(self.own[name][channel]):.3g} and the baseline's "
                f"{float(self.other[name][channel]):.3g}; choose a strength from 0 to 1, or leave "
                "this norm's units out of the selection"
            )

    def _whole(self, selection: Selection) -> dict[str, bool]:
        # Paths of modules that hold something that may differ, and whether all of it is selected.
        places = {name: [o.path for o in held] for name, held in owners(self.model).items()}
        whole: dict[str, bool] = {}
        known = (*selection.index.shapes, *selection.index.buffers)
        for name in self.own:
            full = name in known and bool(selection.mask(name).all())
            for path in places.get(name, [name.rpartition(".")[0]]):
                whole[path] = whole.get(path, True) and full
        return whole


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

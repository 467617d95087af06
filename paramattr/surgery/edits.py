"""Edits of a model's selected units: substitute, insert, modulate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from paramattr.errors import ModelError, UnitError, an
from paramattr.parameters import (
    Baseline,
    Statistics,
    align,
    float_buffers,
    moving_buffers,
    named_parameters,
    owners,
    state_of,
)
from paramattr.units.index import UnitIndex
from paramattr.units.selection import Selection
from paramattr.wrappers import all_hooked, as_assembled, copied, unwrapped, unwrapped_pair


def substitute(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> nn.Module:
    """Replace the selected entries by the baseline's values ("masking" in the paper).

    Buffers with units, such as a batch norm's statistics, take part. An integer buffer, such as
    `num_batches_tracked`, becomes the baseline's if everything in its module is selected.

    Args:
        model: the target; it is not modified.
        baseline: the model that the values come from, or a mapping of names to tensors, such as
            a point of a path, `path.evaluate(0.25)`. Buffers that a mapping lacks keep the
            target's values.
        selection: the units to substitute. An empty selection gives the target. Selecting
            everything gives the baseline if every entry has a unit (`"layer"`, `"scalar"`). Both
            hold bit for bit.
        strict: as in `FAIG`: if False, what only one model has keeps the target's values.

    Returns:
        A new module, without wrappers such as `torch.compile` and `DataParallel`.

    Raises:
        ModelError: if the two models differ in architecture.
        UnitError: if the selection belongs to another model.

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
        model: the target; it is not modified.
        baseline: the model to blend with, or a mapping of names to tensors.
        selection: the units to blend, buffers with units included.
        strength: 0 gives `substitute` and 1 the target, both bit for bit; above 1, the function
            is exaggerated.
        strict: as in `substitute`.

    Returns:
        A new module, without wrappers such as `torch.compile` and `DataParallel`.

    Raises:
        ModelError: if the two models differ in architecture, `strength` is not finite, or a running
            variance would become negative.
        UnitError: if the selection belongs to another model.
    """
    if not isinstance(strength, Real) or not math.isfinite(strength):
        raise ModelError(
            f"strength is {strength!r}: expected a finite number, 0 for the baseline's values and "
            "1 for the target's"
        )
    pair = _Pair(*unwrapped_pair(model, baseline), strict=strict)
    values = {}
    for name, mask in pair.masks(selection):
        target = pair.target[name]
        blended = torch.lerp(pair.other[name], target, float(strength))
        values[name] = torch.where(mask, blended, target)
        pair.check_variance(name, values[name], float(strength))
    if strength == 0:
        values |= pair.counters(selection, selected=True)
    edited = copied(pair.model)
    tensors = _tensors(edited)
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)
    for weight in all_hooked(edited):
        weight.assemble()
    return edited


@contextmanager
def substituted(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> Iterator[nn.Module]:
    """Substitute in place inside a `with` block, then restore the model bit for bit.

    This is the same edit as `substitute`, without a copy of the model::

        with substituted(target, baseline, selection):
            outputs = target(inputs)

    Args:
        model: the target; edited inside the block and restored after it, even after an error.
        baseline: as in `substitute`.
        selection: as in `substitute`.
        strict: as in `substitute`.

    Yields:
        The model itself.

    Raises:
        ModelError: if the two models differ in architecture.
        UnitError: if the selection belongs to another model.
    """
    pair = _Pair(unwrapped(model), unwrapped(baseline), strict=strict)
    values = {
        name: torch.where(mask, pair.other[name], pair.target[name])
        for name, mask in pair.masks(selection)
    }
    with holding(pair.model, values | pair.counters(selection, selected=True)):
        yield model


@contextmanager
def inserted(
    model: nn.Module, baseline: Baseline, selection: Selection, *, strict: bool = True
) -> Iterator[nn.Module]:
    """Turn all but the selected entries into the baseline's inside a `with` block, then restore.

    This is the counterpart of `substituted`: only the selected entries keep the target's values.
    Parameters and buffers without a unit (biases, for kernels) take the baseline's.

    Args:
        model: the target; edited inside the block and restored after it, even after an error.
        baseline: as in `substitute`.
        selection: the units that keep the target's values.
        strict: as in `substitute`.

    Yields:
        The model itself.

    Raises:
        ModelError: if the two models differ in architecture.
        UnitError: if the selection belongs to another model.
    """
    pair = _Pair(unwrapped(model), unwrapped(baseline), strict=strict)
    values = dict(pair.other)
    for name, mask in pair.masks(selection):
        values[name] = torch.where(mask, pair.target[name], pair.other[name])
    with holding(pair.model, values | pair.counters(selection, selected=False)):
        yield model


@contextmanager
def holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Set some parameters and buffers in place inside a `with` block, then restore them.

    Args:
        model: edited inside the block, and restored bit for bit after it.
        values: names of parameters and buffers to tensors of their shapes.
    """
    every = _tensors(model)
    tensors = {name: every[name] for name in values}
    originals = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
        with as_assembled(all_hooked(model)):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(originals[name])
                path, _, attribute = name.rpartition(".")
                buffers = model.get_submodule(path)._buffers
                if attribute in buffers:  # a forward pass may have replaced it
                    buffers[attribute] = tensor


def check_units(model: nn.Module, index: UnitIndex) -> None:
    """Reject an index that belongs to another model.

    Raises:
        UnitError: naming the first parameter or buffer that differs.
    """
    shapes = {name: tuple(value.shape) for name, value in named_parameters(model).items()}
    buffers = {n: tuple(b.shape) for n, b in float_buffers(model).items() if n in index.buffers}
    shapes |= buffers
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
    """Reject anything but a selection of this model's units.

    Raises:
        UnitError: naming what was found.
    """
    if not isinstance(selection, Selection):
        raise UnitError(
            f"the selection is {an(type(selection))}: expected a Selection, such as "
            "scores.top(fraction=0.01)"
        )
    check_units(model, selection.index)


class _Pair:
    """The values of two models by name: all parameters, and the buffers that differ."""

    def __init__(self, model: nn.Module, baseline: Baseline, *, strict: bool = True) -> None:
        self.model, self.baseline = model, baseline
        self.other = align(model, baseline, strict=strict, quiet=True)
        self.other |= moving_buffers(model, baseline, strict=strict)
        every = named_parameters(model) | float_buffers(model)
        self.target = {name: every[name] for name in self.other}

    def masks(self, selection: Selection) -> Iterator[tuple[str, Bool[Tensor, "..."]]]:
        """Yield the names that have units, each with the mask of its selected entries."""
        check_selection(self.model, selection)
        for name in (*selection.index.labels, *selection.index.buffers):
            if name in self.target:
                yield name, selection.mask(name).to(self.target[name].device)

    def counters(self, selection: Selection, *, selected: bool) -> dict[str, Tensor]:
        """Return the baseline's integer buffers that differ, of modules that are fully selected.

        A module is fully selected if all its entries are. A module without entries counts if the
        whole model is selected. With `selected=False`, the buffers of the other modules are
        returned.
        """
        other = state_of(self.baseline, self.model)
        if isinstance(self.baseline, nn.Module):
            other |= {name: buffer.detach() for name, buffer in self.baseline.named_buffers()}
        counters = {}
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
                counters[name] = value.detach().to(buffer)
        return counters

    def check_variance(self, name: str, values: Tensor, strength: float) -> None:
        """Reject a running variance below zero."""
        path, _, attribute = name.rpartition(".")
        if attribute != "running_var" or not bool((values < 0).any()):
            return
        if isinstance(self.model.get_submodule(path), Statistics):
            channel = int(values.argmin())
            raise ModelError(
                f"strength {strength:g} makes buffer {name!r} {float(values[channel]):.3g} in "
                f"channel {channel}: a variance cannot be negative; the target's is "
                f"{float(self.target[name][channel]):.3g} and the baseline's "
                f"{float(self.other[name][channel]):.3g}; choose a strength from 0 to 1, or leave "
                "this norm's units out of the selection"
            )

    def _whole(self, selection: Selection) -> dict[str, bool]:
        # Paths of modules with entries that may differ, and whether all of these are selected.
        places = {name: [o.path for o in held] for name, held in owners(self.model).items()}
        whole: dict[str, bool] = {}
        known = (*selection.index.shapes, *selection.index.buffers)
        for name in self.target:
            full = name in known and bool(selection.mask(name).all())
            for path in places.get(name, [name.rpartition(".")[0]]):
                whole[path] = whole.get(path, True) and full
        return whole


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

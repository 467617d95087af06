"""Parameters and buffers of models: their names, owners, kinds, and how two models match."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from paramattr.errors import ModelError, an, warn
from paramattr.wrappers import without_prefixes

Baseline = nn.Module | Mapping[str, Tensor]
"""A model, or a mapping of names to tensors such as its state dict."""


@dataclass(frozen=True)
class Owner:
    """The module that holds a parameter, and the attribute that names it there."""

    path: str
    module: nn.Module
    attribute: str


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """List a model's floating-point parameters, detached; tied parameters appear once.

    Quantised weights are frozen, and not listed: they have no gradient.

    Raises:
        ModelError: if `model` is not a module, has no floating-point parameter, or has a lazy or
            complex one.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is {an(type(model))}: expected a torch.nn.Module; load a state dict "
            "into one with load_state_dict"
        )
    parameters = {}
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(
                f"parameter {name!r} has no shape yet: run the model once to initialise its lazy "
                "layers"
            )
        if parameter.is_complex():
            raise ModelError(
                f"parameter {name!r} is complex ({parameter.dtype}): expected real numbers; store "
                "torch.view_as_real of it and rebuild the complex one in forward"
            )
        if parameter.is_floating_point() and not _is_quantised(parameter):
            parameters[name] = parameter.detach()
    if not parameters:
        raise ModelError(
            f"model {type(model).__name__} has no floating-point parameter: nothing can be "
            "attributed to it"
        )
    return parameters


def is_shard(tensor: object) -> bool:
    """Say whether a tensor is one process's shard of a larger one (a DTensor)."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is none
    return module is not None and isinstance(tensor, module.DTensor)


def check_whole(model: object) -> None:
    """Reject a model whose parameters are shards over several processes.

    Raises:
        ModelError: saying what can be done with it.
    """
    values = model.parameters() if isinstance(model, nn.Module) else ()
    if any(is_shard(value) for value in values):
        raise ModelError(
            f"the parameters of {type(model).__name__} are shards over several processes, which "
            "FAIG.score, gradient_times_change and fisher_times_change alone can take: call one of "
            "these, or pass the whole model"
        )


def _is_quantised(parameter: Tensor) -> bool:
    # torchao's tensors hold whole numbers and call themselves floats; those of bitsandbytes do not.
    return type(parameter.detach()).__module__.partition(".")[0] == "torchao"


def owners(model: nn.Module) -> dict[str, list[Owner]]:
    """Find all the modules that hold each parameter; a tied parameter has several."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[str, list[Owner]] = {name: [] for name in names.values()}
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[names[id(parameter)]].append(Owner(path, module, attribute))
    return places


def pick(
    model: nn.Module,
    wanted: Iterable[str] | Callable[[str, Tensor], bool] | None,
    buffers: Iterable[str] = (),
) -> list[str]:
    """List the names of the wanted parameters, in the model's order.

    Args:
        model: the model that holds them.
        wanted: names, or a predicate of `(name, parameter)`; None for all.
        buffers: names of buffers that may be picked too.

    Raises:
        ModelError: for an unknown name, or if nothing is picked.
    """
    values: dict[str, Tensor] = {n: model.get_parameter(n) for n in named_parameters(model)}
    values |= {name: model.get_buffer(name) for name in buffers}
    if wanted is None:
        return list(values)
    if callable(wanted):
        picks = [name for name, value in values.items() if wanted(name, value)]
    else:
        if isinstance(wanted, str):
            wanted = (wanted,)
        names = set(wanted)
        unknown = sorted(names - values.keys())
        if unknown:
            raise ModelError(
                f"parameter {unknown[0]!r} is not one of the model's: expected names such as "
                f"{', '.join(repr(name) for name in list(values)[:3])}; a tied parameter goes by "
                "its first name"
            )
        picks = [name for name in values if name in names]
    if not picks:
        raise ModelError(
            "parameters picks none of the model's parameters: give at least one name, or a "
            "predicate of (name, parameter) that is true for some"
        )
    return picks


def align(
    model: nn.Module,
    baseline: Baseline,
    *,
    strict: bool = True,
    quiet: bool = False,
    widened: bool = False,
) -> dict[str, Tensor]:
    """Return the baseline's values of the model's parameters, in the model's order.

    Args:
        model: the target.
        baseline: a module or a mapping of names to tensors; a mapping may lack buffers.
        strict: whether both must have the same parameters. If not, a parameter that is missing in
            the baseline, or has another shape there, keeps the model's values.
        quiet: whether to suppress the warning about parameters that keep the model's values.
        widened: whether they are in float32 at least, so that the baseline of a model in half
            precision is not rounded to it.

    Returns:
        Names to detached tensors, with the device and precision of the model's parameters.

    Raises:
        ModelError: for shards, and naming the first parameter that is missing, left over, of
            another shape, not finite, or tied in the model but not in the baseline.

    Warns:
        UserWarning: listing the parameters that do not match, unless `strict`.
    """
    check_whole(model)
    check_whole(baseline)
    parameters, aliases = named_parameters(model), _aliases(model)
    other = state_of(baseline, model)
    check_kinds("parameter", dict(model.named_parameters()), "the model")
    check_kinds("buffer", dict(model.named_buffers()), "the model")
    check_kinds("entry", other, "the baseline")
    aligned, misfits = {}, []
    for name, value in parameters.items():
        present = [alias for alias in aliases[name] if alias in other]
        misfit = _misfit(name, value, other[present[0]] if present else None, other)
        if misfit is None:
            dtype = torch.promote_types(value.dtype, torch.float32) if widened else value.dtype
            aligned[name] = other[present[0]].detach().to(value.device, dtype)
            check_ties("parameters", present, other)
        elif strict:
            raise ModelError(misfit)
        else:
            aligned[name] = value
            misfits.append(name)
    if not strict:  # a new head's statistics stay with it
        misfits += [
            name
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point() and name in other and other[name].shape != buffer.shape
        ]
    if strict:
        _check_no_leftovers(model, other)
    for side, values in (("model", parameters), ("baseline", aligned)):
        check_finite(values, f"the {side}")
    leftovers = [] if strict else _leftovers(model, other)
    if not quiet and (misfits or leftovers):
        warn(_unmatched(misfits, leftovers))
    return aligned


def _misfit(
    name: str, value: Tensor, first: Tensor | None, other: Mapping[str, Tensor]
) -> str | None:
    way_out = "; with strict=False it keeps the target's values along the whole path"
    if first is None:
        return (
            f"parameter {name!r} of shape {tuple(value.shape)} is missing in the baseline: "
            f"expected a model of the same architecture{_nearby(other)}{way_out}"
        )
    if first.shape != value.shape:
        return (
            f"parameter {name!r} has shape {tuple(value.shape)} in the model and "
            f"{tuple(first.shape)} in the baseline: expected two models of one "
            f"architecture{way_out}"
        )
    return None


def check_ties(kind: str, present: list[str], other: Mapping[str, Tensor]) -> None:
    """Reject a baseline that holds several values for what is one tensor in the model.

    Args:
        kind: of the tensor, in the plural.
        present: its names in the model that the baseline has too.
        other: the baseline's tensors by name.

    Raises:
        ModelError: naming two of these.
    """
    for alias in present[1:]:
        if not torch.equal(other[alias], other[present[0]]):
            raise ModelError(
                f"{kind} {present[0]!r} and {alias!r} are tied in the model but differ in "
                "the baseline: tie them there, or untie them in the model"
            )


def _unmatched(misfits: list[str], leftovers: list[str]) -> str:
    parts = []
    if misfits:
        parts.append(
            f"{', '.join(map(repr, misfits))} of the target are missing or of another shape in the "
            "baseline: they keep the target's values along the whole path and are not attributed"
        )
    if leftovers:
        parts.append(f"{', '.join(map(repr, leftovers))} of the baseline are missing in the target")
    return "; ".join(parts)


def check_kinds(kind: str, values: Mapping[str, Tensor], where: str) -> None:
    """Reject tensors without values or with entries that are not stored; parameters of 8 bits.

    Raises:
        ModelError: naming the first such tensor.
    """
    for name, value in values.items():
        if value.is_meta:
            raise ModelError(
                f"{kind} {name!r} of {where} has no values (it is on the meta device): expected "
                "a model whose weights are there; load its weights, after to_empty(device='cpu')"
            )
        if value.layout is not torch.strided:
            raise ModelError(
                f"{kind} {name!r} of {where} is {value.layout}: expected tensors that store every "
                "entry; put its to_dense() there"
            )
        is_narrow = value.is_floating_point() and value.itemsize == 1
        if kind == "parameter" and is_narrow and not _is_quantised(value):
            raise ModelError(
                f"{kind} {name!r} of {where} is {value.dtype}, which has no arithmetic: expected "
                "half precision at least; cast the model, as by model.to(torch.bfloat16)"
            )


def check_finite(values: Mapping[str, Tensor], where: str) -> None:
    """Reject parameters that are not finite.

    Raises:
        ModelError: naming the first such parameter and how many of its entries are not finite.
    """
    for name, value in values.items():
        if torch.isfinite(value.sum()):  # one pass; a second only if the sum overflows
            continue
        finite = torch.isfinite(value)
        if not finite.all():
            raise ModelError(
                f"parameter {name!r} of {where} has {int((~finite).sum())} of {value.numel()} "
                "entries that are not finite: expected finite numbers; use a checkpoint from "
                "before the training diverged"
            )


def state_of(baseline: Baseline, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Return a baseline's tensors by name.

    Args:
        baseline: a module, or a mapping, whose names may have the prefixes of wrappers.
        model: what it is compared with, whose names may start in the same way.

    Raises:
        ModelError: if it is neither a module nor a mapping of names to tensors.
    """
    if isinstance(baseline, nn.Module):
        return dict(baseline.state_dict(keep_vars=False))
    if not isinstance(baseline, Mapping):
        raise ModelError(
            f"the baseline is {an(type(baseline))}: expected a torch.nn.Module or a mapping "
            "of parameter names to tensors; read a file with paramattr.load_state_dict"
        )
    for name, value in baseline.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"entry {name!r} of the baseline is {an(type(value))}: expected a tensor; "
                "if the checkpoint wraps its state dict, read it with "
                "paramattr.load_state_dict"
            )
    known = [] if model is None else [name for name, _ in model.named_parameters()]
    return without_prefixes(baseline, known)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    aliases: dict[str, list[str]] = {name: [] for name in names.values()}
    for alias, parameter in model.named_parameters(remove_duplicate=False):
        aliases[names[id(parameter)]].append(alias)
    return aliases


def _leftovers(model: nn.Module, other: Mapping[str, Tensor]) -> list[str]:
    """List the baseline's entries that the model lacks."""
    known = set(model.state_dict())
    known |= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return [name for name in other if name not in known]


def _check_no_leftovers(model: nn.Module, other: Mapping[str, Tensor]) -> None:
    for name in _leftovers(model, other):
        raise ModelError(
            f"entry {name!r} of shape {tuple(other[name].shape)} in the baseline is missing in the "
            "model: expected two models of one architecture"
        )


def _nearby(other: Mapping[str, Tensor]) -> str:
    shown = ", ".join(f"{n!r} {tuple(t.shape)}" for n, t in list(other.items())[:3])
    return f"; the baseline holds {shown}, ..." if shown else "; the baseline is empty"


Statistics = nn.modules.batchnorm._NormBase
"""PyTorch's norms that keep running statistics: batch norm and instance norm."""
STATISTICS = ("running_mean", "running_var")
"""The buffers of such a norm that have one entry per channel."""


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """List a model's floating-point buffers, detached, including non-persistent ones.

    Counters such as `num_batches_tracked` are integers, so they are not listed.
    """
    return {
        name: buffer.detach()
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point()
    }


def moving_buffers(
    model: nn.Module, baseline: Baseline, *, strict: bool = True, widened: bool = False
) -> dict[str, Tensor]:
    """Return the baseline's values of the floating-point buffers that differ from the model's.

    Args:
        model: the target.
        baseline: a module, or a mapping of names to tensors; buffers missing from a mapping count
            as equal.
        strict: whether buffers of one name must have one shape. If not, one of another shape keeps
            the model's values, as the parameters of a new head do.
        widened: whether they are in float32 at least.

    Returns:
        Names to detached tensors, in the model's order, with the device and precision of the
        model's buffers. Equal buffers are not listed.

    Raises:
        ModelError: for a buffer of another shape, one that is tied in the model and not in the
            baseline, or values that are not finite.
    """
    other = state_of(baseline, model)
    if isinstance(baseline, nn.Module):
        every = baseline.named_buffers(remove_duplicate=False)
        other |= {name: buffer.detach() for name, buffer in every}
    aliases: dict[int, list[str]] = {}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in other:
            aliases.setdefault(id(buffer), []).append(name)
    moving = {}
    for name, buffer in float_buffers(model).items():
        present = aliases.get(id(model.get_buffer(name)))
        if not present:
            continue
        check_ties("buffers", present, other)
        other[name] = other[present[0]]
        if other[name].shape != buffer.shape:
            if not strict:
                continue
            raise ModelError(
                f"buffer {name!r} has shape {tuple(buffer.shape)} in the model and "
                f"{tuple(other[name].shape)} in the baseline: expected two models of one "
                "architecture; with strict=False it keeps the target's values along the whole path"
            )
        dtype = torch.promote_types(buffer.dtype, torch.float32) if widened else buffer.dtype
        value = other[name].detach().to(buffer.device, dtype)
        if not torch.equal(value, buffer.to(dtype)):
            moving[name] = value
    check_finite(moving, "the baseline")
    check_finite({name: model.get_buffer(name) for name in moving}, "the model")
    return moving

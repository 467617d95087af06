"""Which parameters take part: two models aligned name by name, parameters apart from buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from paramattr.errors import ModelError, warn
from paramattr.wrappers import without_prefixes

Baseline = nn.Module | Mapping[str, Tensor]
"""A model, or a mapping of names to tensors such as its state dict."""


@dataclass(frozen=True)
class Owner:
    """The module that holds a parameter, and the attribute it is held under."""

    path: str
    module: nn.Module
    attribute: str


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """List the floating-point parameters of a model, detached; tied parameters are one.

    Quantised weights are frozen, and not listed: they have no gradient.

    Raises:
        ModelError: if `model` is no module, has no such parameter, or a lazy or complex one.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is a {type(model).__name__}: expected a torch.nn.Module; put a state dict "
            "into one with load_state_dict"
        )
    found = {}
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(
                f"parameter {name!r} has no shape yet: run the model once so that its lazy layers "
                "take one"
            )
        if parameter.is_complex():
            raise ModelError(
                f"parameter {name!r} is complex ({parameter.dtype}): expected real numbers; hold "
                "it as torch.view_as_real and build the complex one in forward"
            )
        if parameter.is_floating_point() and not _is_quantised(parameter):
            found[name] = parameter.detach()
    if not found:
        raise ModelError(
            f"model {type(model).__name__} has no floating-point parameter: nothing can be "
            "attributed to it"
        )
    return found


def _is_quantised(parameter: Tensor) -> bool:
    # torchao's tensors hold whole numbers and call themselves floats; those of bitsandbytes do not.
    return type(parameter.detach()).__module__.partition(".")[0] == "torchao"


def owners(model: nn.Module) -> dict[str, list[Owner]]:
    """Find for each parameter all the places that hold it; a tied parameter has several."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[Owner]] = {name: [] for name in names.values()}
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found[names[id(parameter)]].append(Owner(path, module, attribute))
    return found


def pick(
    model: nn.Module,
    wanted: Iterable[str] | Callable[[str, Tensor], bool] | None,
    buffers: Iterable[str] = (),
) -> list[str]:
    """Name the parameters that are wanted, in the model's order.

    Args:
        model: whose parameters.
        wanted: names, or a predicate of `(name, parameter)`; None for all.
        buffers: names of buffers that may be wanted too.

    Raises:
        ModelError: for a name that is no parameter's, or a choice that picks none.
    """
    own: dict[str, Tensor] = {n: model.get_parameter(n) for n in named_parameters(model)}
    own |= {name: model.get_buffer(name) for name in buffers}
    if wanted is None:
        return list(own)
    if callable(wanted):
        found = [name for name, value in own.items() if wanted(name, value)]
    else:
        if isinstance(wanted, str):
            wanted = (wanted,)
        names = set(wanted)
        unknown = sorted(names - own.keys())
        if unknown:
            raise ModelError(
                f"parameter {unknown[0]!r} is not one of the model's: expected names such as "
                f"{', '.join(repr(name) for name in list(own)[:3])}; a tied parameter goes by its "
                "first name"
            )
        found = [name for name in own if name in names]
    if not found:
        raise ModelError(
            "parameters picks none of the model's parameters: give at least one name, or a "
            "predicate of (name, parameter) that is true for some"
        )
    return found


def align(
    model: nn.Module, baseline: Baseline, *, strict: bool = True, quiet: bool = False
) -> dict[str, Tensor]:
    """Take the baseline's values of the model's parameters, in the model's order.

    Args:
        model: the target.
        baseline: a module or a mapping of names to tensors; of a mapping, buffers may be missing.
        strict: whether both must have the same parameters. If not, a parameter that the baseline
            lacks, or has in another shape, keeps the model's values.
        quiet: whether to leave out the warning of what keeps the model's values.

    Returns:
        Names to detached tensors, on the device and in the precision of the model's.

    Raises:
        ModelError: naming the first parameter that is missing, left over, of another shape, not
            finite, or tied in the model but not in the baseline.

    Warns:
        UserWarning: listing the parameters that differ in kind, unless `strict`.
    """
    own, other, aliases = named_parameters(model), state_of(baseline), _aliases(model)
    aligned, kept = {}, []
    for name, value in own.items():
        present = [alias for alias in aliases[name] if alias in other]
        misfit = _misfit(name, value, other[present[0]] if present else None, other)
        if misfit is None:
            aligned[name] = other[present[0]].detach().to(value)
            _check_ties(present, other)
        elif strict:
            raise ModelError(misfit)
        else:
            aligned[name] = value
            kept.append(name)
    if strict:
        _check_no_more(model, other)
    for side, values in (("model", own), ("baseline", aligned)):
        check_finite(values, f"the {side}")
    more = [] if strict else _no_more(model, other)
    if not quiet and (kept or more):
        warn(_of_another_kind(kept, more))
    return aligned


def _misfit(
    name: str, value: Tensor, first: Tensor | None, other: Mapping[str, Tensor]
) -> str | None:
    recipe = "; with strict=False it stays the target's along the whole path"
    if first is None:
        return (
            f"parameter {name!r} of shape {tuple(value.shape)} is missing in the baseline: "
            f"expected a model of the same architecture{_nearby(other)}{recipe}"
        )
    if first.shape != value.shape:
        return (
            f"parameter {name!r} has shape {tuple(value.shape)} in the model and "
            f"{tuple(first.shape)} in the baseline: expected two models of one architecture{recipe}"
        )
    return None


def _check_ties(present: list[str], other: Mapping[str, Tensor]) -> None:
    for alias in present[1:]:
        if not torch.equal(other[alias], other[present[0]]):
            raise ModelError(
                f"parameters {present[0]!r} and {alias!r} are tied in the model but differ in "
                "the baseline: tie them there, or untie them in the model"
            )


def _of_another_kind(kept: list[str], more: list[str]) -> str:
    said = []
    if kept:
        said.append(
            f"{', '.join(map(repr, kept))} of the target are missing or of another shape in the "
            "baseline: they stay the target's along the whole path, and are not attributed"
        )
    if more:
        said.append(f"{', '.join(map(repr, more))} of the baseline are missing in the target")
    return "; ".join(said)


def check_finite(values: Mapping[str, Tensor], where: str) -> None:
    """Refuse parameters that are not finite.

    Raises:
        ModelError: naming the first such parameter and how many of its entries are not finite.
    """
    for name, value in values.items():
        if torch.isfinite(value.sum()):  # one pass over it, and a second only if that overflows
            continue
        finite = torch.isfinite(value)
        if not finite.all():
            raise ModelError(
                f"parameter {name!r} of {where} has {int((~finite).sum())} of {value.numel()} "
                "entries that are not finite: expected numbers; take a checkpoint from before the "
                "training diverged"
            )


def state_of(baseline: Baseline) -> dict[str, Tensor]:
    """Give a baseline's tensors by name.

    Raises:
        ModelError: for anything but a module or a mapping of names to tensors.
    """
    if isinstance(baseline, nn.Module):
        return dict(baseline.state_dict(keep_vars=False))
    if not isinstance(baseline, Mapping):
        raise ModelError(
            f"the baseline is a {type(baseline).__name__}: expected a torch.nn.Module or a mapping "
            "of parameter names to tensors; read a file with paramattr.checkpoints.load_state_dict"
        )
    for name, value in baseline.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"entry {name!r} of the baseline is a {type(value).__name__}: expected a tensor; "
                "a checkpoint that wraps its state dict is unwrapped by "
                "paramattr.checkpoints.load_state_dict"
            )
    return without_prefixes(baseline)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for alias, parameter in model.named_parameters(remove_duplicate=False):
        found[names[id(parameter)]].append(alias)
    return found


def _no_more(model: nn.Module, other: Mapping[str, Tensor]) -> list[str]:
    """Name what the baseline has and the model lacks."""
    known = set(model.state_dict())
    known |= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return [name for name in other if name not in known]


def _check_no_more(model: nn.Module, other: Mapping[str, Tensor]) -> None:
    for name in _no_more(model, other):
        raise ModelError(
            f"entry {name!r} of shape {tuple(other[name].shape)} in the baseline is missing in the "
            "model: expected two models of one architecture"
        )


def _nearby(other: Mapping[str, Tensor]) -> str:
    shown = ", ".join(f"{n!r} {tuple(t.shape)}" for n, t in list(other.items())[:3])
    return f"; the baseline holds {shown}, ..." if shown else "; the baseline is empty"

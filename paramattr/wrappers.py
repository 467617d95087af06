"""Removal of model wrappers, so that parameters go by the plain model's names."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import ModelError


def unwrapped(model: Any) -> Any:
    """Remove `torch.compile`, `DataParallel` and DDP from a model; return anything else unchanged.

    A PEFT model becomes the base model that holds its adapters.

    Raises:
        ModelError: for a wrapper with a hook, which would be lost with it, and for a model that
            `torch.jit` compiled.
    """
    inner: Any = model
    while isinstance(inner, nn.Module):
        taken_off: list[Any] = [inner]
        if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif _has_adapters(inner):
            taken_off.append(inner.base_model)
            inner = inner.get_base_model()  # type: ignore[operator]
        else:
            break
        for wrapper in taken_off:
            _check_no_hook(wrapper, inner)
    if isinstance(inner, torch.jit.ScriptModule):
        name = getattr(inner, "original_name", type(inner).__name__)
        raise ModelError(
            f"the model ({name}) is compiled by torch.jit, which runs it on its own "
            "parameters alone: expected the torch.nn.Module that it was made from, with the "
            "weights of its state_dict(); a baseline may also be that state_dict() itself"
        )
    return inner


def unwrapped_pair(model: Any, baseline: Any) -> tuple[Any, Any]:
    """Remove the wrappers from two models that will be compared.

    If only the first has adapters (PEFT), the other must be the model they were trained on. The
    first is then copied and its adapters are merged, so its weights go by the plain model's names.

    Raises:
        ModelError: if the adapters cannot be merged, and as `unwrapped`.
    """
    plain, other = unwrapped(model), unwrapped(baseline)
    if _holds_adapters(plain) and not _holds_adapters(other):
        return _merged(model), other
    return plain, other


def without_prefixes(names: Mapping[str, Tensor], known: Iterable[str] = ()) -> dict[str, Tensor]:
    """Strip the prefixes that wrappers put on every name of a state dict.

    Args:
        names: a state dict.
        known: names of the model that it is for, which may start in the same way. As many prefixes
            are stripped as make the most names known; all of them if none is.
    """
    stripped = [dict(names)]
    for prefix in ("module.", "_orig_mod.", "module.", "base_model.model."):
        state = stripped[-1]
        if state and all(name.startswith(prefix) for name in state):
            stripped.append({name.removeprefix(prefix): value for name, value in state.items()})
    own = set(known)
    return max(reversed(stripped), key=lambda state: len(own & state.keys()))


def _check_no_hook(wrapper: nn.Module, inner: nn.Module) -> None:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(vars(wrapper).get(kind) for kind in kinds):
        raise ModelError(
            f"the wrapper ({type(wrapper).__name__}) has a hook of its own: expected one without, "
            "since wrappers are taken off and the hook would not run; register it on the model "
            f"inside ({type(inner).__name__}), or remove it"
        )


def _has_adapters(model: nn.Module) -> bool:
    is_peft = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    prompts = any(
        getattr(config, "is_prompt_learning", False)
        for config in dict(getattr(model, "peft_config", None) or {}).values()
    )
    return is_peft and not prompts


def _holds_adapters(model: object) -> bool:
    if isinstance(model, nn.Module):
        names = [name for name, _ in model.named_parameters()]
    else:
        names = list(model) if isinstance(model, Mapping) else []
    return any(".base_layer." in f".{name}" for name in names)


def _merged(model: object) -> nn.Module:
    wrapper = model
    while isinstance(wrapper, nn.Module) and not hasattr(wrapper, "merge_and_unload"):
        inner = getattr(wrapper, "_orig_mod", getattr(wrapper, "module", None))
        if inner is None:
            break
        wrapper = inner
    if not hasattr(wrapper, "merge_and_unload"):
        raise ModelError(
            f"the model ({type(model).__name__}) has adapters and the baseline has none: expected "
            "adapters in both, or a PEFT model, which can be merged; pass model.merge_and_unload()"
        )
    adapted: Any = wrapper
    for path, module in adapted.named_modules():
        if getattr(module, "disable_adapters", False) is True:
            raise ModelError(
                f"the adapter in {path!r} is switched off, as by disable_adapter(), and merging "
                "would switch it on: expected adapters that are on; leave that context first, or "
                "pass model.unload() for the model without them"
            )
    merged: nn.Module = copy.deepcopy(adapted).merge_and_unload()
    return merged

"""Removal of model wrappers, so that parameters go by the plain model's names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paramattr.errors import ModelError


def unwrapped(model: Any) -> Any:
    """Remove `torch.compile`, `DataParallel` and DDP from a model; return anything else unchanged.

    A PEFT model becomes the base model that holds its adapters.
    """
    inner: Any = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif _has_adapters(inner):
            inner = inner.get_base_model()  # type: ignore[operator]
        else:
            break
    return inner


def unwrapped_pair(model: Any, baseline: Any) -> tuple[Any, Any]:
    """Remove the wrappers from two models that will be compared.

    If only the first has adapters (PEFT), the other must be the model they were trained on. The
    first is then copied and its adapters are merged, so its weights go by the plain model's names.

    Raises:
        ModelError: if the adapters cannot be merged.
    """
    plain, other = unwrapped(model), unwrapped(baseline)
    if _holds_adapters(plain) and not _holds_adapters(other):
        return _merged(model), other
    return plain, other


def without_prefixes(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that wrappers put on every name of a state dict."""
    state = dict(names)
    for prefix in ("module.", "_orig_mod.", "module.", "base_model.model."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


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
    merged: nn.Module = copy.deepcopy(wrapper).merge_and_unload()
    return merged

"""What is around a model: wrappers, and hooks that assemble its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from paramattr.errors import ModelError, one_line


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


class Hooked(NamedTuple):
    """A weight that a hook assembles.

    Attributes:
        module: what holds it.
        name: the attribute that the hook sets.
        parts: the parameters that it is assembled from; the last has the weight's shape.
        hook: the hook.
    """

    module: nn.Module
    name: str
    parts: tuple[str, ...]
    hook: Any

    def assemble(self) -> None:
        """Set the weight from its parts as they are now."""
        with torch.no_grad():
            if isinstance(self.hook, SpectralNorm):  # called, it would change its buffers
                weight = self.hook.compute_weight(self.module, do_power_iteration=False)
            elif isinstance(self.hook, WeightNorm):
                weight = self.hook.compute_weight(self.module)
            else:
                weight = self.hook.apply_mask(self.module)
            setattr(self.module, self.name, weight)


def hooked(module: nn.Module) -> Iterator[Hooked]:
    """List the weights that hooks of a module assemble."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield Hooked(module, hook.name, (f"{hook.name}_g", f"{hook.name}_v"), hook)
        elif isinstance(hook, SpectralNorm):
            yield Hooked(module, hook.name, (f"{hook.name}_orig",), hook)
        elif isinstance(hook, BasePruningMethod):
            name = hook._tensor_name
            yield Hooked(module, name, (f"{name}_orig",), hook)


def all_hooked(model: nn.Module) -> list[Hooked]:
    """List the weights that hooks assemble in all modules of a model."""
    return [one for module in model.modules() for one in hooked(module)]


@contextmanager
def as_assembled(weights: Sequence[Hooked]) -> Iterator[None]:
    """Give the modules their assembled weights back afterwards; the parts are not touched."""
    held = [(one, getattr(one.module, one.name)) for one in weights]
    try:
        yield
    finally:
        for one, weight in held:
            setattr(one.module, one.name, weight)  # recurrent layers keep a list of theirs


def copied(model: nn.Module, same: Mapping[int, Tensor] | None = None) -> nn.Module:
    """Copy a model, also where modules keep tensors of an earlier pass, such as these weights.

    Args:
        model: the model.
        same: tensors by their `id` that the copy shares.

    Raises:
        ModelError: if its modules cannot be copied.
    """
    memo: dict[int, Any] = dict(same or {})
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        made: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:  # modules may hold anything
        raise ModelError(
            f"the model ({type(model).__name__}) cannot be copied ({one_line(error)}): expected "
            "modules that copy.deepcopy can copy; take off what they keep of an earlier pass"
        ) from error
    return made

"""What differs between two models beside what moves along the path, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

NAMED = 3
"""Differences that a message names."""
_OF_A_COPY = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Entries of a configuration that say where a model comes from, not what it computes."""


def differences(model: nn.Module, baseline: nn.Module, moving: Iterable[str]) -> list[str]:
    """List what differs and is not attributed: structure, whole numbers, settings, hooks.

    Args:
        model: the target.
        baseline: the model that it is compared with.
        moving: names of the parameters and buffers that move along the path.
    """
    found: list[str] = []
    there = dict(baseline.named_modules())
    for path, own in model.named_modules():
        where = f"layer {path!r}" if path else "the model"
        other = there.get(path)
        if other is None:
            found.append(f"{where} is missing in the baseline")
            continue
        if type(own) is not type(other):
            kinds = type(own).__name__, type(other).__name__
            found.append(f"{where} is of class {kinds[0]} and {kinds[1]}")
            continue
        found += [f"{where} has {what}" for what in _settings(own, other)]
    found += [f"buffer {name!r} differs" for name in _buffers(model, baseline, set(moving))]
    return found


def said(found: list[str]) -> str:
    """Put differences in words, the first of them by name."""
    if not found:
        return "something beside parameters and buffers differs, such as the models' code"
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more


def _settings(own: nn.Module, other: nn.Module) -> Iterator[str]:
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        counts = len(getattr(own, hooks)), len(getattr(other, hooks))
        if counts[0] != counts[1]:
            yield f"{counts[0]} forward hooks and {counts[1]}"
    yield from _entries(_plain(vars(own)), _plain(vars(other)), "")
    yield from _entries(_config(own), _config(other), "config.")


def _entries(own: Mapping[str, Any], other: Mapping[str, Any], start: str) -> Iterator[str]:
    for name in own.keys() | other.keys():
        if own.get(name) != other.get(name):
            yield f"{start}{name} {own.get(name)!r} and {other.get(name)!r}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the public entries that can be compared and written."""
    return {
        name: value
        for name, value in sorted(values.items())
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _config(module: nn.Module) -> dict[str, Any]:
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    entries = to_dict() if callable(to_dict) else {}
    return {name: value for name, value in _plain(entries).items() if name not in _OF_A_COPY}


def _buffers(model: nn.Module, baseline: nn.Module, moving: set[str]) -> Iterator[str]:
    there = dict(baseline.named_buffers())
    for name, buffer in model.named_buffers():
        other = there.get(name)
        is_counter = name.endswith("num_batches_tracked")  # nothing reads it in evaluation mode
        if name in moving or is_counter or other is None or _are_equal(buffer, other):
            continue
        yield name


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other.to(one.device)).all())

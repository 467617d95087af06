"""Experts of a mixture as units: stacks of weights (experts, ...), or lists named `experts`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from paramattr.parameters import owners
from paramattr.units.grid import UNKNOWN, Answer, OfModel, Reducer, Units, along, looked_up

Axes = tuple[int | None, int | None]
"""The dimensions of outputs and of inputs."""


@OfModel
def expert(model: nn.Module) -> Reducer:
    """Take all the parameters of one expert of a mixture as a unit.

    The group is the path of the experts and the position is `(expert,)`. The router and shared
    experts belong to no unit.
    """
    answers: dict[str, Answer] = {}
    paths = {name: places[0].path for name, places in owners(model).items()}
    for path, module in model.named_modules():
        held = {n: p for n, p in model.named_parameters() if _within(paths.get(n, n), path)}
        if is_stack(module):
            count = stack_size(module)
            group = _together(model, path)
            for name, parameter in held.items():
                if parameter.ndim and parameter.shape[0] == count and paths[name] == path:
                    labels = along(torch.arange(count), 0, parameter.ndim)
                    answers[name] = Units(group, (count,), labels)
                elif parameter.ndim > 1:
                    answers[name] = UNKNOWN
        elif path.rpartition(".")[2] == "experts" and isinstance(
            module, nn.ModuleList | nn.ModuleDict
        ):
            numbers = {key: number for number, (key, _) in enumerate(module.named_children())}
            for name, parameter in held.items():
                number = numbers[paths[name].removeprefix(f"{path}.").split(".")[0]]
                labels = torch.full([1] * parameter.ndim, number, dtype=torch.int32)
                answers[name] = Units(path, (len(numbers),), labels)
    return looked_up(answers)


def is_stack(module: nn.Module) -> bool:
    """Return whether a module stacks the weights of several experts."""
    named = type(module).__name__.endswith("Experts")
    return named and any(p.ndim > 2 for p in module.parameters(recurse=False))


def declares_its_gate(module: nn.Module) -> bool:
    """Return whether a stack is one of transformers, and says how a fused gate lies in it."""
    return type(module).__module__.startswith("transformers.") and (
        not hasattr(module, "gate_up_proj") or hasattr(module, "is_concatenated")
    )


def stack_size(module: nn.Module) -> int:
    """Count the experts of a stack."""
    return next(int(p.shape[0]) for p in module.parameters(recurse=False) if p.ndim > 2)


def stacked_axes(module: nn.Module) -> dict[str, Axes]:
    """Return the axes of a stack's weights and biases, by attribute; empty for an unknown stack.

    Known stacks have `gate_up_proj` (or `up_proj`) and `down_proj`, as in Hugging Face's
    transformers. Their sizes tell `(experts, out, in)` from `(experts, in, out)`.
    """
    if not is_stack(module):
        return {}
    parameters = dict(module.named_parameters(recurse=False))
    down = parameters.get("down_proj")
    times = 2 if "gate_up_proj" in parameters else 1
    up_name = "gate_up_proj" if times == 2 else "up_proj"
    up = parameters.get(up_name)
    if up is None or down is None or up.ndim != 3 or down.ndim != 3:
        return {}
    fits = [
        (out, in_)
        for out, in_ in ((1, 2), (2, 1))
        if up.shape[out] == times * down.shape[in_] and up.shape[in_] == down.shape[out]
    ]
    if len(fits) != 1:  # without a gate, a stack of square weights may be either
        return {}
    biases: dict[str, Axes] = {
        name: (1, None) for name in (f"{up_name}_bias", "down_proj_bias") if name in parameters
    }
    return {up_name: fits[0], "down_proj": fits[0], **biases}


def stacked_neurons(module: nn.Module) -> Iterator[tuple[str, int, Tensor]]:
    """Yield each attribute of a known stack that has neurons, their dimension and their numbers.

    A gated neuron has rows j and j + n, or 2j and 2j + 1 if the module is not `is_concatenated`.
    """
    axes = stacked_axes(module)
    for attribute, (output, input_) in axes.items():
        if attribute == "down_proj_bias":
            continue
        dimension = input_ if attribute == "down_proj" else output
        if dimension is None:
            continue
        size = int(getattr(module, attribute).shape[dimension])
        numbers = torch.arange(size)
        if attribute.startswith("gate_up"):
            apart = getattr(module, "is_concatenated", True)
            numbers = numbers % (size // 2) if apart else numbers // 2
        yield attribute, dimension, numbers


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.") or not outer


def _together(model: nn.Module, path: str) -> str:
    # Sibling stacks, such as an input and an output layer, form one set of experts.
    parent = path.rpartition(".")[0]
    siblings = [m for m in model.get_submodule(parent).children() if is_stack(m)]
    return parent if len(siblings) > 1 else path

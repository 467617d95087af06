"""Experts of a mixture: stacks of weights (experts, ...), or modules in a list called `experts`."""

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
    """Take all that one expert of a mixture holds as a unit.

    The group is the path of the experts, the position `(expert,)`. The router and shared experts
    belong to no expert.
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
    """Say whether a module holds the weights of several experts, one behind the other."""
    named = type(module).__name__.endswith("Experts")
    return named and any(p.ndim > 2 for p in module.parameters(recurse=False))


def stack_size(module: nn.Module) -> int:
    """Count the experts of a stack."""
    return next(int(p.shape[0]) for p in module.parameters(recurse=False) if p.ndim > 2)


def stacked_axes(module: nn.Module) -> dict[str, Axes]:
    """Give the axes of a stack's weights and biases, by attribute; nothing if it is no known stack.

    Known are `gate_up_proj` (or `up_proj`) with `down_proj`, as Hugging Face's transformers has
    them, `(experts, out, in)` or `(experts, in, out)`: their sizes tell the two apart.
    """
    if not is_stack(module):
        return {}
    own = dict(module.named_parameters(recurse=False))
    down = own.get("down_proj")
    times = 2 if "gate_up_proj" in own else 1
    up_name = "gate_up_proj" if times == 2 else "up_proj"
    up = own.get(up_name)
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
        name: (1, None) for name in (f"{up_name}_bias", "down_proj_bias") if name in own
    }
    return {up_name: fits[0], "down_proj": fits[0], **biases}


def stacked_neurons(module: nn.Module) -> Iterator[tuple[str, int, Tensor]]:
    """Give each attribute of a known stack that has neurons, its dimension, and their numbers.

    A gated neuron has two rows, j and j + n, or 2j and 2j + 1 where the module says so.
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
    # Two stacks side by side, such as an input and an output layer, are one set of experts.
    parent = path.rpartition(".")[0]
    siblings = [m for m in model.get_submodule(parent).children() if is_stack(m)]
    return parent if len(siblings) > 1 else path

"""Units of floating-point buffers, such as a batch norm's statistics."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor, nn

from paramattr.buffers import Statistics, float_buffers
from paramattr.units.grid import Answer, Reducer

STATISTICS = ("running_mean", "running_var")


def labels_or_answers(
    model: nn.Module, reducer: Reducer, labels: Mapping[str, Int[Tensor, "..."]], *, ask: bool
) -> dict[str, Tensor | Answer]:
    """Return the labels of each floating-point buffer, or the reducer's answer for it.

    The statistics of a norm have the labels of its weight.

    Args:
        model: the model that holds the buffers.
        reducer: a reducer of parameters.
        labels: labels of the parameters.
        ask: whether to ask the reducer about all other buffers; they have no units otherwise.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    units: dict[str, Tensor | Answer] = {}
    for name, buffer in float_buffers(model).items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, Statistics) and attribute in STATISTICS:
            weight = names.get(id(module._parameters.get("weight")))
            if weight is not None and weight in labels:
                units[name] = labels[weight]
                continue
        if ask:
            units[name] = reducer(name, buffer, module)
    return units

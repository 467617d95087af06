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
    """Give each floating-point buffer the labels of its norm's weight, or the reducer's answer.

    Args:
        model: whose buffers.
        reducer: what is asked about a buffer, as about a parameter.
        labels: of the parameters.
        ask: whether the reducer is one that is asked about buffers; if it is not, only statistics
            have units, where their norm's weight has.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Tensor | Answer] = {}
    for name, buffer in float_buffers(model).items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, Statistics) and attribute in STATISTICS:
            weight = names.get(id(module._parameters.get("weight")))
            if weight is not None and weight in labels:
                found[name] = labels[weight]
                continue
        if ask:
            found[name] = reducer(name, buffer, module)
    return found

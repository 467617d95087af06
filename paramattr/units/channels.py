"""Units inside one parameter or one module: entries, kernels, channels, rows, layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramattr.parameters import owners
from paramattr.units.grid import (
    UNKNOWN,
    Answer,
    OfModel,
    Reducer,
    Units,
    along,
    counted,
    layer_of,
    of_buffers,
)
from paramattr.units.layouts import CONVOLUTIONS, by_parameter


@of_buffers
def scalar(name: str, parameter: Tensor, module: nn.Module) -> Units:
    """Take each entry of each parameter as a unit."""
    shape = tuple(parameter.shape)
    return Units(name, shape, counted(*shape))


@of_buffers
def layer(name: str, parameter: Tensor, module: nn.Module) -> Units:
    """Take all the parameters of one module, weight and bias alike, as a unit."""
    path = layer_of(name)
    return Units(path, (1,), torch.zeros([1] * parameter.ndim, dtype=torch.int32))


@OfModel
def kernel(model: nn.Module) -> Reducer:
    """Take each spatial slice `weight[i, j]` of a convolution, the paper's "filter", as a unit.

    Biases and other layers are left out (Xie et al. 2021, footnote 2).
    """
    layouts = by_parameter(model)

    def of_parameter(name: str, parameter: Tensor, module: nn.Module) -> Answer:
        layout = layouts.get(name)
        if layout is None or not isinstance(layout.module, CONVOLUTIONS) or parameter.ndim < 3:
            return None
        if layout.output is None or layout.input is None:  # the lengths of weight norm
            return None
        shape = tuple(parameter.shape[:2])
        return Units(layout.plain, shape, counted(*shape, *[1] * (parameter.ndim - 2)))

    return of_parameter


@OfModel
def output_channel(model: nn.Module) -> Reducer:
    """Take the weights of one output channel (or neuron of a linear layer) as a unit.

    Biases and parameters of fewer than two dimensions are left out. A tied weight is laid out as in
    the first of its modules. The outputs of an embedding are the dimensions of its vectors. In a
    stack of experts, the position is `(expert, channel)`.
    """
    return _channels(model, "output")


@OfModel
def input_channel(model: nn.Module) -> Reducer:
    """Take the weights of one input channel (or feature of a linear layer) as a unit.

    Biases and parameters of fewer than two dimensions are left out. A tied weight is laid out as in
    the first of its modules. In a stack of experts, the position is `(expert, channel)`.
    """
    return _channels(model, "input")


@OfModel
def embedding_row(model: nn.Module) -> Reducer:
    """Take each row of an embedding, the vector of one token, as a unit.

    The group is the parameter and the position is `(row,)`. A weight that is tied to an embedding
    counts as one.
    """
    places = owners(model)

    def of_parameter(name: str, parameter: Tensor, module: nn.Module) -> Answer:
        held = [owner.module for owner in places[name]]
        if parameter.ndim != 2 or not any(
            isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in held
        ):
            return None
        rows = len(parameter)
        return Units(name, (rows,), along(counted(rows), 0, 2))

    return of_parameter


def _channels(model: nn.Module, side: str) -> Reducer:
    layouts = by_parameter(model)

    def of_parameter(name: str, parameter: Tensor, module: nn.Module) -> Answer:
        if parameter.ndim < 2:
            return None
        layout = layouts.get(name)
        if layout is None:
            return UNKNOWN
        if layout.experts and parameter.ndim == 2:  # their biases
            return None
        channels = layout.labels(side)
        if channels is None:  # weight norm's lengths belong to one side alone
            return UNKNOWN if isinstance(layout.module, nn.Bilinear) else None
        return Units(layout.plain, *channels)

    return of_parameter

"""Units inside one parameter or one module: entries, kernels, channels, rows, layers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from paramattr.parameters import owners
from paramattr.units.blocks import group_of, joined
from paramattr.units.followers import Following, followers, is_norm
from paramattr.units.grid import (
    UNKNOWN,
    Answer,
    OfModel,
    Reducer,
    Units,
    along,
    counted,
    layer_of,
    looked_up,
    of_buffers,
)
from paramattr.units.layouts import CONVOLUTIONS, Layout, by_parameter, is_dense
from paramattr.units.statistics import STATISTICS


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


@partial(OfModel, of_buffers=True)
def channel(model: nn.Module) -> Reducer:
    """Take all that makes one channel of a convolution or linear layer as a unit.

    It holds the row of the weight, the bias, and what a norm that reads this layer's output and
    nothing else holds for the channel: weight, bias and running statistics. The group is the path
    of the layer, and the position is `(channel,)`.

    Which norm follows which layer is known by a trace of the model that a run bears out (see
    `paramattr.units.followers`): batch, instance, group and layer norms, and others by name. A norm
    that reads something else, such as a sum with a shortcut, is left out with a warning, and so
    are all other parameters, such as embeddings. In a model that cannot be traced its modules are,
    each alone.
    """
    answers: dict[str, Answer] = {name: UNKNOWN for name, _ in model.named_parameters()}
    rows = {name: own for name, own in by_parameter(model).items() if _makes_channels(own)}
    paths = {name: own.plain.rpartition(".")[0] for name, own in rows.items()}
    axes = {
        paths[name]: 1 - len(own.shape) if isinstance(own.module, CONVOLUTIONS) else -1
        for name, own in rows.items()
        if len(own.shape) > 1
    }
    sizes: dict[str, tuple[int, ...]] = {}
    for name, own in rows.items():
        shape, labels = own.labels("output") or ((), torch.empty(0))
        sizes[paths[name]] = shape
        answers[name] = Units(group_of(paths[name], own.module), shape, labels)
    following = followers(model, axes)
    for name, places in owners(model).items():
        held = [(place.path, place.attribute) for place in places if is_norm(place.module)]
        if len(held) == len(places):
            answers[name] = _of_norms(model, held, following, sizes)
    for path, module in model.named_modules():
        if is_norm(module):
            for attribute in STATISTICS:
                if isinstance(module._buffers.get(attribute), Tensor):
                    answer = _of_norms(model, [(path, attribute)], following, sizes)
                    answers[joined(path, attribute)] = answer
    return looked_up(answers)


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


def _makes_channels(layout: Layout) -> bool:
    return is_dense(layout.module) and not layout.experts and layout.output is not None


def _of_norms(
    model: nn.Module,
    held: list[tuple[str, str]],
    following: dict[str, Following],
    sizes: dict[str, tuple[int, ...]],
) -> Answer:
    """Give the units of what one norm holds, or several that share it follow one layer."""
    found = {
        (one.layer, one.axes[attribute])
        for path, attribute in held
        if (one := following.get(path)) is not None and attribute in one.axes
    }
    if len(found) != 1 or any(path not in following for path, _ in held):
        return UNKNOWN
    [(layer, axis)] = found
    path, attribute = held[0]
    ndim = getattr(model.get_submodule(path), attribute).ndim
    labels = along(counted(*sizes[layer]), axis, ndim)
    return Units(group_of(layer, model.get_submodule(layer)), sizes[layer], labels)

"""Neurons of feed-forward blocks as units."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.units.blocks import (
    FEED_FORWARD,
    NO_FEED_FORWARD,
    Projections,
    Side,
    group_of,
    joined,
    unlabelled,
)
from paramattr.units.experts import is_stack, stack_size, stacked_neurons
from paramattr.units.grid import UNKNOWN, Answer, OfModel, Reducer, Units, along, looked_up

_ENDINGS = ("MLP", "Mlp", "FFN", "FeedForward", "Experts")


@OfModel
def neuron(model: nn.Module) -> Reducer:
    """Take each neuron of a feed-forward block: its incoming row, its bias, its outgoing column.

    The group is the path of the block. The position is `(neuron,)`, or `(expert, neuron)` in a
    stack of experts. A gated neuron has two incoming rows. The block's output bias belongs to no
    neuron.

    The reducer knows the names in `paramattr.units.blocks.FEED_FORWARD`, an `nn.Sequential` of two
    linear layers, and stacks of experts. A feed-forward block's output is as wide as its input, so
    poolers and classifier heads do not count. Weights of other modules whose class is named
    `...MLP` or similar are left out with a warning.
    """
    answers: dict[str, Answer] = {}
    projections = Projections(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        if any(part in NO_FEED_FORWARD for part in path.split(".")):
            continue
        if is_stack(module):
            block = _of_stack(path, module, names)
        else:
            block = _of_block(path, module, projections)
        answers |= {name: answer for name, answer in block.items() if name not in answers}
    answers |= dict.fromkeys(unlabelled(model, _ENDINGS, answers), UNKNOWN)
    return looked_up(answers)


def _of_block(path: str, module: nn.Module, projections: Projections) -> dict[str, Answer]:
    for incoming, outgoing, rows in _candidates(path, module, projections):
        weights = [projections.weight(joined(path, name)) for name in incoming]
        out = projections.weight(joined(path, outgoing))
        if out is None or out.input is None or out.output is None:
            continue
        count = out.shape[out.input]
        if not all(
            w is not None
            and w.output is not None
            and w.input is not None
            and w.shape[w.output] == rows * count
            and w.shape[w.input] == out.shape[out.output]
            for w in weights
        ):
            continue
        group = group_of(path, module)
        answers: dict[str, Answer] = {}
        for name in incoming:
            for side in projections.outputs(joined(path, name)):
                answers[side.name] = _units(group, count, side, torch.arange(side.size) % count)
        for side in projections.inputs(joined(path, outgoing)):
            answers[side.name] = _units(group, count, side, torch.arange(side.size))
        return answers
    return {}


def _candidates(
    path: str, module: nn.Module, projections: Projections
) -> Iterator[tuple[tuple[str, ...], str, int]]:
    yield from FEED_FORWARD
    if isinstance(module, nn.Sequential):
        layers = projections.with_weights(path)
        if len(layers) == 2 and all(projections.weight(joined(path, name)) for name in layers):
            yield (layers[0],), layers[1], 1


def _of_stack(path: str, module: nn.Module, names: dict[int, str]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    experts, group = stack_size(module), group_of(path, module)
    for attribute, dimension, numbers in stacked_neurons(module):
        parameter = getattr(module, attribute)
        count = int(numbers.max()) + 1
        shape = [1] * parameter.ndim
        shape[0], shape[dimension] = experts, len(numbers)
        labels = (torch.arange(experts)[:, None] * count + numbers).to(torch.int32).reshape(shape)
        answers[names[id(parameter)]] = Units(group, (experts, count), labels)
    return answers


def _units(group: str, count: int, side: Side, labels: Int[Tensor, "n"]) -> Units:
    return Units(group, (count,), along(labels, side.dimension, len(side.shape)))

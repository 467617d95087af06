"""Neurons of feed-forward blocks as units."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.units.grid import UNKNOWN, Answer, OfModel, Reducer, Units, along
from paramattr.units.layouts import (
    CONVOLUTIONS,
    Layout,
    Projections,
    Side,
    group_of,
    is_stack,
    joined,
    of_blocks,
    stack_size,
    stacked_axes,
    units_of,
)
from paramattr.units.probe import Judge, Place, Proposal
from paramattr.units.sandbox import Sizes

FEED_FORWARD: tuple[tuple[tuple[str, ...], str, int], ...] = (
    # The projections into the neurons, the one out of them, and the rows per neuron in each of
    # the former: 2 if a gate is fused, rows j and j + n.
    (("gate_proj", "up_proj"), "down_proj", 1),  # Llama, Mistral, Qwen, Gemma
    (("up_proj",), "down_proj", 1),
    (("gate_up_proj",), "down_proj", 2),  # Phi-3
    (("wi_0", "wi_1"), "wo", 1),  # T5 v1.1
    (("wi",), "wo", 1),  # T5
    (("c_fc",), "c_proj", 1),  # GPT-2
    (("fc1",), "fc2", 1),  # BART, OPT, ViT, CLIP, timm
    (("lin1",), "lin2", 1),  # DistilBERT
    (("dense_h_to_4h",), "dense_4h_to_h", 1),  # GPT-NeoX, Bloom
    (("intermediate_dense",), "output_dense", 1),  # wav2vec 2.0
    (("dense1",), "dense2", 1),  # SegFormer
    (("intermediate.dense",), "output.dense", 1),  # BERT, RoBERTa, Swin
    (("ffn",), "ffn_output", 1),  # ALBERT
    (("fc_in",), "fc_out", 1),  # GPT-J
    (("linear1",), "linear2", 1),  # nn.TransformerEncoderLayer
    (("w1", "w3"), "w2", 1),  # Llama as it was published, lists of Mixtral's experts
    (("w1",), "w2", 1),
    (("Wi",), "Wo", 2),  # ModernBERT
    (("pwconv1",), "pwconv2", 1),  # ConvNeXt
)

NO_FEED_FORWARD = ("pooler", "classifier", "head", "pre_classifier", "score")
"""Names of modules that are not, and do not hold, feed-forward blocks."""

_ENDINGS = ("MLP", "Mlp", "FFN", "FeedForward", "Experts")


@OfModel
def neuron(model: nn.Module) -> Reducer:
    """Take each neuron of a feed-forward block: its incoming row, its bias, its outgoing column.

    The group is the path of the block. The position is `(neuron,)`, or `(expert, neuron)` in a
    stack of experts. A gated neuron has two incoming rows. The block's output bias belongs to no
    neuron.

    The names in `paramattr.units.neurons.FEED_FORWARD`, or an `nn.Sequential` of two linear layers,
    propose what the neurons are; a block is known if a probe of its own forward pass bears that out
    (`paramattr.units.probe`). Stacks of experts are known by class: those of `transformers`. A
    feed-forward block's output is as wide as its input, so poolers and classifier heads do not
    count. The weights of other blocks, and of other modules whose class is named `...MLP` or
    similar, are left out with a warning.
    """
    projections, judge = Projections(model), Judge()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    blocks = (
        _of_stack(path, module, names)
        if is_stack(module)
        else _of_names(model, path, module, projections, judge)
        for path, module in model.named_modules()
        if not any(part in NO_FEED_FORWARD for part in path.split("."))
    )
    return of_blocks(model, blocks, _ENDINGS)


def _of_names(
    model: nn.Module, path: str, module: nn.Module, projections: Projections, judge: Judge
) -> dict[str, Answer]:
    """Ask each naming that fits for its proposals; the first that is borne out gives neurons."""
    unknown: dict[str, Answer] = {}
    for incoming, outgoing, times in _candidates(path, module, projections):
        found = [projections.weight(joined(path, name)) for name in incoming]
        out, weights = projections.weight(joined(path, outgoing)), [w for w in found if w]
        if out is None or not _fits(weights, out, len(incoming), times):
            continue
        unknown |= dict.fromkeys([w.name for w in (*weights, out)], UNKNOWN)
        rows = [side for name in incoming for side in projections.outputs(joined(path, name))]
        columns = torch.arange(out.size("input"))
        rows += _depthwise(path, module, projections, len(columns))
        ways = [
            [(side, _numbers(side.size, len(columns), apart=apart)) for side in rows]
            for apart in ((True, False) if times > 1 else (True,))
        ]
        proposals = [_proposal(model, way, columns) for way in ways]
        width, image = weights[0].size("input"), len(weights[0].shape) > 2
        place = Place(module, outgoing, 1 if image else -1, Sizes(width, width, width, image))
        right = judge.first_right(proposals, place)
        if right is not None:
            inputs = projections.inputs(joined(path, outgoing))
            sides = [*ways[right], *((side, columns) for side in inputs)]
            return unknown | units_of(group_of(path, module), len(columns), sides)
    return unknown


def _numbers(size: int, count: int, *, apart: bool) -> Int[Tensor, "size"]:
    """Number the neuron of each row; those of a fused gate are j and j + n, or 2j and 2j + 1."""
    rows = torch.arange(size)
    return rows % count if apart else rows // (size // count)


def _proposal(
    model: nn.Module, rows: list[tuple[Side, Tensor]], columns: Int[Tensor, "n"]
) -> Proposal:
    made = [
        (model.get_parameter(side.name), along(labels, side.dimension, len(side.shape)))
        for side, labels in rows
    ]
    return Proposal(len(columns), tuple(made), columns)


def _depthwise(
    path: str, module: nn.Module, projections: Projections, count: int
) -> Iterator[Side]:
    """Yield the parameters of a convolution of each neuron by itself, between the projections."""
    for inner, layer in module.named_modules():
        if isinstance(layer, CONVOLUTIONS) and layer.groups == layer.out_channels == count:
            yield from projections.outputs(joined(path, inner))


def _fits(weights: list[Layout], out: Layout, count: int, times: int) -> bool:
    """Say whether all projections are there, and the block's output is as wide as its input."""
    return len(weights) == count and all(
        w.size("output") == times * out.size("input") and w.size("input") == out.size("output")
        for w in weights
    )


def _candidates(
    path: str, module: nn.Module, projections: Projections
) -> Iterator[tuple[tuple[str, ...], str, int]]:
    yield from FEED_FORWARD
    if isinstance(module, nn.Sequential):
        layers = projections.with_weights(path)
        if len(layers) == 2 and all(projections.weight(joined(path, name)) for name in layers):
            yield (layers[0],), layers[1], 1


def _of_stack(path: str, module: nn.Module, names: dict[int, str]) -> dict[str, Answer]:
    """Number the neurons of a stack of `transformers` that says how a fused gate lies in it."""
    declared = not hasattr(module, "gate_up_proj") or hasattr(module, "is_concatenated")
    if not type(module).__module__.startswith("transformers.") or not declared:
        return {names[id(p)]: UNKNOWN for p in module.parameters(recurse=False) if p.ndim > 2}
    answers: dict[str, Answer] = {}
    experts, group = stack_size(module), group_of(path, module)
    for attribute, (output, input_) in stacked_axes(module).items():
        dimension = input_ if attribute == "down_proj" else output
        if attribute == "down_proj_bias" or dimension is None:
            continue
        parameter = getattr(module, attribute)
        size = count = int(parameter.shape[dimension])
        apart = True
        if attribute.startswith("gate_up"):
            count, apart = size // 2, getattr(module, "is_concatenated", True)
        shape = [1] * parameter.ndim
        shape[0], shape[dimension] = experts, size
        numbers = torch.arange(experts)[:, None] * count + _numbers(size, count, apart=apart)
        labels = numbers.to(torch.int32).reshape(shape)
        answers[names[id(parameter)]] = Units(group, (experts, count), labels)
    return answers

"""Layouts of weights: which dimension makes outputs and which reads inputs.

Linear layers, convolutions, recurrent layers and attention hold `(out, in, ...)`, transposed
convolutions `(in, out / groups, ...)`. Embeddings hold `(in, out)`, and so does `Conv1D` of Hugging
Face's transformers. Stacks of experts have one more dimension in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from paramattr.parameters import Owner, owners
from paramattr.units.grid import UNKNOWN, Answer, Reducer, Units, along, counted, looked_up
from paramattr.wrappers import hooked

CONVOLUTIONS = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_ROWS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    CONVOLUTIONS,
)
_COLUMNS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)
_KNOWN_BY_ENTRY = (_WeightNorm, _SpectralNorm)  # these keep each entry in its row and column

Axes = tuple[int | None, int | None]
"""The dimensions of outputs and of inputs."""


@dataclass(frozen=True)
class Layout:
    """The layout of one parameter.

    Attributes:
        name: the parameter's first name.
        plain: its name without a parametrisation or a hook that does the same, such as
            `conv.weight` for weight norm's parts.
        module: the module that uses it.
        shape: its shape.
        output: the dimension of the outputs, or None.
        input: the dimension of the inputs, or None.
        groups: the groups of a convolution; dimension 1 counts the channels of each group.
        experts: whether dimension 0 counts experts.
    """

    name: str
    plain: str
    module: nn.Module
    shape: tuple[int, ...]
    output: int | None
    input: int | None
    groups: int = 1
    experts: bool = False

    def dimension(self, side: str) -> int | None:
        """Return the dimension that counts a side's channels, `"output"` or `"input"`, or None."""
        return self.output if side == "output" else self.input

    def size(self, side: str) -> int:
        """Count a side's channels along its dimension; 0 if there is none."""
        dimension = self.dimension(side)
        return 0 if dimension is None else self.shape[dimension]

    def labels(self, side: str) -> tuple[tuple[int, ...], Int[Tensor, "..."]] | None:
        """Return the shape of the grid of a side's channels, and each entry's channel."""
        dimension, size, ndim = self.dimension(side), self.size(side), len(self.shape)
        if dimension is None:
            return None
        if self.experts:
            grid = counted(self.shape[0], size)
            between = [1] * ndim
            between[0], between[dimension] = self.shape[0], size
            return tuple(grid.shape), grid.reshape(between)
        if dimension == 1 and self.groups > 1:  # of a weight (rows, size / groups, ...)
            rows = self.shape[0]
            group = torch.arange(rows, dtype=torch.int32) // (rows // self.groups)
            labels = group[:, None] * size + torch.arange(size, dtype=torch.int32)
            return (size * self.groups,), labels.reshape(rows, size, *[1] * (ndim - 2))
        return (size,), along(counted(size), dimension, ndim)


def layouts_of(model: nn.Module) -> dict[str, list[Layout]]:
    """Return the known layouts, by the path of each module that uses the parameter.

    A tied parameter appears under each of its owners, with that owner's layout. A bias has only an
    output dimension.
    """
    layouts: dict[str, list[Layout]] = {}
    for name, places in owners(model).items():
        for owner in places:
            for path, layout in _of_owner(model, name, owner):
                layouts.setdefault(path, []).append(layout)
    return layouts


def by_parameter(model: nn.Module) -> dict[str, Layout]:
    """Return each parameter's layout, from the first owner whose layout is known.

    So an embedding that is tied to a later linear layer is laid out as an embedding.
    """
    order = {path: number for number, (path, _) in enumerate(model.named_modules())}
    by_name: dict[str, Layout] = {}
    layouts = layouts_of(model)
    for path in sorted(layouts, key=lambda path: order[path]):
        for layout in layouts[path]:
            by_name.setdefault(layout.name, layout)
    return by_name


def is_dense(module: nn.Module) -> bool:
    """Say whether a module is a linear layer or a convolution, transposed or not."""
    return isinstance(module, nn.Linear | CONVOLUTIONS) or _is_transformers_conv1d(module)


def is_stack(module: nn.Module) -> bool:
    """Return whether a module stacks the weights of several experts."""
    named = type(module).__name__.endswith("Experts")
    return named and any(p.ndim > 2 for p in module.parameters(recurse=False))


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


@dataclass(frozen=True)
class Side:
    """A parameter of a projection, and its dimension on the block's inner side."""

    name: str
    shape: tuple[int, ...]
    dimension: int

    @property
    def size(self) -> int:
        """Count the entries along the dimension."""
        return self.shape[self.dimension]


class Projections:
    """The parameters of a model's linear layers, by the path of the layer.

    A layer wrapped by PEFT keeps its path: the rows of LoRA's `B` are outputs, and the columns of
    its `A` are inputs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layouts = layouts_of(model)

    def weight(self, path: str) -> Layout | None:
        """Return the layout of a layer's weight, or None if there is no such layer."""
        for inner in (path, f"{path}.base_layer"):
            for layout in self._layouts.get(inner, []):
                if len(layout.shape) > 1 and None not in (layout.output, layout.input):
                    return layout
        return None

    def outputs(self, path: str) -> Iterator[Side]:
        """Yield the parameters that make a layer's outputs: weight, bias, LoRA's `B`."""
        yield from self._sides(path, "output", f"{path}.lora_B.")

    def inputs(self, path: str) -> Iterator[Side]:
        """Yield the parameters that read a layer's inputs: weight, LoRA's `A`."""
        yield from self._sides(path, "input", f"{path}.lora_A.")

    def _sides(self, path: str, side: str, low_rank: str) -> Iterator[Side]:
        adapters = [inner for inner in self._layouts if inner.startswith(low_rank)]
        for inner in (path, f"{path}.base_layer", *adapters):
            for layout in self._layouts.get(inner, []):
                dimension = layout.dimension(side)
                if dimension is not None:
                    yield Side(layout.name, layout.shape, dimension)

    def with_weights(self, path: str) -> list[str]:
        """List the children of a module that have, or contain, a weight of known layout."""
        prefix = f"{path}." if path else ""
        inner = [p for p in self._layouts if p.startswith(prefix) and p != path]
        return list(dict.fromkeys(p.removeprefix(prefix).partition(".")[0] for p in inner))


def of_blocks(
    model: nn.Module, blocks: Iterable[dict[str, Answer]], endings: tuple[str, ...]
) -> Reducer:
    """Make a reducer from the answers of each block; the first that knows a parameter has it.

    Weights that no block knows are `UNKNOWN`, in modules whose class name ends in one of `endings`.
    Biases, LoRA's matrices and routers of experts do not count: they belong to no head or neuron.
    """
    answers: dict[str, Answer] = {}
    for block in blocks:
        answers |= {n: a for n, a in block.items() if answers.get(n) in (None, UNKNOWN)}
    modules = dict(model.named_modules())
    inside = tuple(f"{p}." for p, m in modules.items() if p and type(m).__name__.endswith(endings))
    for name, parameter in model.named_parameters():
        holder = type(modules[name.rpartition(".")[0]]).__name__
        other = holder.endswith("Router") or name.endswith("bias") or ".lora_" in name
        if parameter.ndim > 1 and not other and name.startswith(inside):
            answers.setdefault(name, UNKNOWN)
    return looked_up(answers)


def units_of(
    group: str, count: int, sides: Sequence[tuple[Side, Tensor | None]]
) -> dict[str, Answer]:
    """Lay a block's units along its parameters; None stands for labels that do not fit."""
    return {
        side.name: UNKNOWN
        if labels is None
        else Units(group, (count,), along(labels, side.dimension, len(side.shape)))
        for side, labels in sides
    }


def joined(path: str, relative: str) -> str:
    """Join a module's path and the path of a module relative to it."""
    return f"{path}.{relative}" if path else relative


def group_of(path: str, module: nn.Module) -> str:
    """Name a block by its path, or by its class if it is the whole model."""
    return path or type(module).__name__


def _of_owner(model: nn.Module, name: str, owner: Owner) -> Iterator[tuple[str, Layout]]:
    parameter = getattr(owner.module, owner.attribute)
    shape, path, module, attribute = tuple(parameter.shape), owner.path, owner.module, ""
    if isinstance(module, ParametrizationList):
        if not all(isinstance(part, _KNOWN_BY_ENTRY) for part in module):
            return
        whole = "original1" if hasattr(module, "original1") else "original"
        full = tuple(module.get_parameter(whole).shape)
        path, _, attribute = path.rpartition(".")
        path = path.rpartition(".")[0]  # without "parametrizations"
        module = model.get_submodule(path)
    else:
        full, attribute = shape, owner.attribute
        for weight in hooked(module):
            if attribute in weight.parts:
                full = tuple(getattr(module, weight.parts[-1]).shape)
                attribute = weight.name
    axes = _axes(module, attribute, len(shape))
    if axes is None:
        return
    # Weight norm's lengths have size 1 in all dimensions but one.
    output, input_ = (
        d if d is not None and shape[d] == full[d] and len(shape) == len(full) else None
        for d in axes
    )
    groups = module.groups if isinstance(module, CONVOLUTIONS) and len(shape) > 2 else 1
    is_whole = owner.module is module and owner.attribute == attribute
    plain = name if is_whole else f"{path}.{attribute}" if path else attribute
    experts = attribute in stacked_axes(module)
    yield path, Layout(name, plain, module, shape, output, input_, int(groups), experts)


def _axes(module: nn.Module, attribute: str, ndim: int) -> Axes | None:
    stacked = stacked_axes(module)
    if attribute in stacked:
        return stacked[attribute]
    known = (*_ROWS, *_COLUMNS, nn.Bilinear)
    if not isinstance(module, known) and not _is_transformers_conv1d(module):
        return None
    if ndim == 1:
        return (0, None) if attribute.startswith("bias") else None
    if isinstance(module, nn.Bilinear):  # (out, in, in): an entry reads two inputs
        return (0, None) if ndim == 3 else None
    if ndim < 2 or (ndim > 2 and not isinstance(module, CONVOLUTIONS)):
        return None
    if isinstance(module, (_TRANSPOSED, *_COLUMNS)) or _is_transformers_conv1d(module):
        return 1, 0
    return 0, 1


def _is_transformers_conv1d(module: nn.Module) -> bool:
    named = any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)
    return named and hasattr(module, "nf") and hasattr(module, "nx")

"""Layouts of weights: which dimension makes outputs and which reads inputs.

Linear layers, convolutions, recurrent layers and attention hold `(out, in, ...)`, transposed
convolutions `(in, out / groups, ...)`. Embeddings hold `(in, out)`, and so does `Conv1D` of Hugging
Face's transformers. Stacks of experts have one more dimension in front: see
`paramattr.units.experts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from paramattr.hooked import hooked
from paramattr.parameters import Owner, owners
from paramattr.units.experts import stacked_axes
from paramattr.units.grid import along, counted

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


@dataclass(frozen=True)
class Layout:
    """How one parameter is laid out.

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

    def labels(self, side: str) -> tuple[tuple[int, ...], Int[Tensor, "..."]] | None:
        """Return the shape of the grid of a side's channels, and each entry's channel.

        Args:
            side: `"output"` or `"input"`.
        """
        dimension = self.output if side == "output" else self.input
        if dimension is None:
            return None
        size, ndim = self.shape[dimension], len(self.shape)
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


def _axes(module: nn.Module, attribute: str, ndim: int) -> tuple[int | None, int | None] | None:
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


def is_dense(module: nn.Module) -> bool:
    """Say whether a module is a linear layer or a convolution, transposed or not."""
    return isinstance(module, nn.Linear | CONVOLUTIONS) or _is_transformers_conv1d(module)


def _is_transformers_conv1d(module: nn.Module) -> bool:
    named = any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)
    return named and hasattr(module, "nf") and hasattr(module, "nx")

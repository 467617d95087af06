"""Reducers: which entries of a parameter fall into one unit, and get one number together.

A reducer is any callable of `(name, parameter, module)`, called once for each parameter with its
full name, its values and the module that holds it. It returns `Units`, or None to leave the
parameter out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.errors import UnitError


@dataclass(frozen=True)
class Units:
    """How one parameter falls into units.

    Attributes:
        group: name of the grid of units; parameters that give the same group share its units.
        shape: shape of the grid.
        labels: the unit of each entry, counted row by row over the grid; -1 for none. Of the
            parameter's number of dimensions, with size 1 along those that a unit spans.
    """

    group: str
    shape: tuple[int, ...]
    labels: Int[Tensor, "..."]


Reducer = Callable[[str, Tensor, nn.Module], Units | None]
"""`(name, parameter, module)` to the parameter's units, or None to leave it out."""

_CONVOLUTIONS = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd


def scalar(name: str, parameter: Tensor, module: nn.Module) -> Units:
    """Take each entry of each parameter as a unit."""
    shape = tuple(parameter.shape)
    return Units(name, shape, _counted(*shape))


def kernel(name: str, parameter: Tensor, module: nn.Module) -> Units | None:
    """Take each spatial slice `weight[i, j]` of the convolutions, the paper's "filter", as a unit.

    Biases, and all that is no convolution, are left out (Xie et al. 2021, footnote 2).
    """
    if not isinstance(module, _CONVOLUTIONS) or parameter.ndim < 3:
        return None
    shape = tuple(parameter.shape[:2])
    return Units(name, shape, _spread(_counted(*shape), parameter))


def output_channel(name: str, parameter: Tensor, module: nn.Module) -> Units | None:
    """Take the weights that make one output channel (or neuron of a linear layer) as a unit.

    Biases and parameters of fewer than two dimensions are left out.
    """
    if parameter.ndim < 2:
        return None
    labels = _counted(parameter.shape[0])
    if isinstance(module, _TRANSPOSED):  # weight (in, out / groups, ...)
        labels = _grouped(parameter, module.groups)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):  # weight (in, out)
        labels = _counted(1, parameter.shape[1])
    return Units(name, (int(labels.max()) + 1,), _spread(labels, parameter))


def input_channel(name: str, parameter: Tensor, module: nn.Module) -> Units | None:
    """Take the weights that read one input channel (or feature of a linear layer) as a unit.

    Biases and parameters of fewer than two dimensions are left out.
    """
    if parameter.ndim < 2:
        return None
    labels = _counted(1, parameter.shape[1])
    if isinstance(module, _TRANSPOSED | nn.Embedding | nn.EmbeddingBag):
        labels = _counted(parameter.shape[0])
    elif isinstance(module, _CONVOLUTIONS):  # weight (out, in / groups, ...)
        labels = _grouped(parameter, module.groups)
    return Units(name, (int(labels.max()) + 1,), _spread(labels, parameter))


def layer(name: str, parameter: Tensor, module: nn.Module) -> Units:
    """Take all the parameters that one module holds, weight and bias alike, as a unit."""
    path = layer_of(name)
    return Units(path, (1,), torch.zeros([1] * parameter.ndim, dtype=torch.int32))


REDUCERS: dict[str, Reducer] = {
    "scalar": scalar,
    "kernel": kernel,
    "output_channel": output_channel,
    "input_channel": input_channel,
    "layer": layer,
}


def get_reducer(reducer: str | Reducer) -> Reducer:
    """Take a reducer by name; a callable is returned as it is.

    Raises:
        UnitError: for an unknown name.
    """
    if callable(reducer):
        return reducer
    if not isinstance(reducer, str) or reducer not in REDUCERS:
        raise UnitError(
            f"reducer {reducer!r} is not known: expected one of {', '.join(REDUCERS)}, or a "
            "callable of (name, parameter, module) that returns paramattr.units.reducers.Units"
        )
    return REDUCERS[reducer]


def only(reducer: str | Reducer, layers: Iterable[str]) -> Reducer:
    """Restrict a reducer to the parameters of some layers.

    A name that is no layer's picks nothing; where none picks any, there is no unit to score and
    `UnitIndex.of` raises.

    Args:
        reducer: a name or a callable.
        layers: names of layers, as `layer_of` gives them.

    Returns:
        A reducer that leaves all other layers' parameters out.

    Raises:
        UnitError: for an unknown reducer.

    >>> from paramattr.units.index import UnitIndex
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    >>> len(UnitIndex.of(model, only("output_channel", ["1"])))
    4
    """
    return _Only(get_reducer(reducer), frozenset([layers] if isinstance(layers, str) else layers))


@dataclass(frozen=True)
class _Only:
    reducer: Reducer
    layers: frozenset[str]

    def __call__(self, name: str, parameter: Tensor, module: nn.Module) -> Units | None:
        return self.reducer(name, parameter, module) if layer_of(name) in self.layers else None

    def __repr__(self) -> str:
        inner = getattr(self.reducer, "__name__", repr(self.reducer))
        return f"only({inner}, {sorted(self.layers)})"


def layer_of(name: str) -> str:
    """Name the layer of a parameter: its module's path, or its own name at the model's root.

    >>> layer_of("body.0.conv1.weight"), layer_of("weight")
    ('body.0.conv1', 'weight')
    """
    return name.rpartition(".")[0] or name


def _counted(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)


def _spread(labels: Tensor, parameter: Tensor) -> Tensor:
    return labels.reshape(labels.shape + (1,) * (parameter.ndim - labels.ndim))


def _grouped(parameter: Tensor, groups: int) -> Tensor:
    # Of a weight (a, b / groups, ...): the number in 0..b-1 of each (row, column).
    rows, columns = parameter.shape[:2]
    group = torch.arange(rows, dtype=torch.int32) // (rows // groups)
    return group[:, None] * columns + torch.arange(columns, dtype=torch.int32)

"""Which layers share their channels: what must be permuted or rescaled together."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from paramattr.errors import ModelError

Convolution = nn.modules.conv._ConvNd
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)
"""f(s x) = s f(x) for s > 0: channels may be rescaled through them."""
_PER_CHANNEL = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.Upsample,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
)
"""They treat every channel alike and by itself."""
_ACTIVATIONS = (
    nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Hardtanh,
    nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.Softmax, nn.PReLU, nn.RReLU,
)  # fmt: skip
_KEEPS: set[Any] = {
    F.relu, F.leaky_relu, torch.relu, F.dropout, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d, F.interpolate, "relu", "relu_", "contiguous", "clone",
}  # fmt: skip
_SCALES: set[Any] = {operator.mul, torch.mul, "mul"}
_ADDS: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_REFUSED: set[Any] = {
    torch.tanh, torch.sigmoid, F.gelu, F.silu, F.elu, F.softplus, F.softmax, F.tanh, F.sigmoid,
    F.hardtanh, F.relu6, F.mish, "tanh", "sigmoid", "softmax",
}  # fmt: skip


@dataclass
class Space:
    """Channels that several layers share.

    Attributes:
        size: how many; 0 where no layer says.
        outgoing: layers that make them.
        incoming: layers that read them.
        norms: batch norms over them.
        is_fixed: whether something reads them in their order and size, such as the model's output.
    """

    size: int = 0
    outgoing: list[str] = field(default_factory=list)
    incoming: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    is_fixed: bool = False


def channel_spaces(model: nn.Module) -> list[Space]:
    """Trace a model, and give the channels that may be permuted and rescaled.

    Args:
        model: of convolutions (ungrouped), linear layers, (leaky) ReLU, sums, poolings and batch
            norms. What is none of these keeps the channels that it touches as they are.

    Raises:
        ModelError: if the model cannot be traced, or has another activation.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # control flow that depends on values fails in many ways
        raise ModelError(
            f"the model ({type(model).__name__}) cannot be traced ({error}): expected one without "
            "control flow that depends on its inputs' values"
        ) from error
    trace = _Trace(model)
    for node in graph.nodes:
        trace.visit(node)
    return trace.spaces()


class _Value(fx.Proxy):
    """A value of the traced model, which says that it is an ordinary tensor on the CPU."""

    device, dtype, is_cuda = torch.device("cpu"), torch.float32, False


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except NameError:  # a part that the model made while it ran, as a slice of a Sequential
            return forward(*args, **kwargs)


class _Trace:
    """The spaces of a graph's nodes: sets of nodes whose channels are the same."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.parent: dict[fx.Node, fx.Node] = {}
        self.fixed: list[fx.Node] = []
        self.layers: list[tuple[str, fx.Node, fx.Node]] = []
        self.norms: list[tuple[str, fx.Node]] = []

    def visit(self, node: fx.Node) -> None:
        self.parent[node] = node
        sources = node.all_input_nodes
        if node.op == "call_module":
            self._module(node, self.modules[str(node.target)], sources)
        elif node.op in ("call_function", "call_method"):
            self._function(node, sources)
        else:  # an input, a parameter of its own, or the output
            self.fixed += [node, *sources]

    def _module(self, node: fx.Node, module: nn.Module, sources: list[fx.Node]) -> None:
        name = str(node.target)
        if isinstance(module, _ACTIVATIONS):
            raise _other_activation(f"layer {name!r} ({type(module).__name__})")
        plain = isinstance(module, nn.Linear) or (
            isinstance(module, Convolution) and module.groups == 1
        )
        if plain:
            self.layers.append((name, sources[0], node))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            self.norms.append((name, node))
            self._join(node, sources[0])
        elif isinstance(module, (*_HOMOGENEOUS, *_PER_CHANNEL)):
            self._join(node, sources[0])
        else:
            self.fixed += [node, *sources]

    def _function(self, node: fx.Node, sources: list[fx.Node]) -> None:
        if node.target in _REFUSED:
            raise _other_activation(f"the function {getattr(node.target, '__name__', node.target)}")
        if node.target in _ADDS and len(sources) == 2:
            for source in sources:
                self._join(node, source)
        elif node.target in _KEEPS or (node.target in _SCALES and len(sources) == 1):
            self._join(node, sources[0])
        else:
            self.fixed += [node, *sources]

    def spaces(self) -> list[Space]:
        found: dict[fx.Node, Space] = {}

        def space(node: fx.Node) -> Space:
            return found.setdefault(self._root(node), Space())

        for name, source, node in self.layers:
            inputs, outputs = _sizes(self.modules[name])
            for one, size, names in (
                (space(source), inputs, space(source).incoming),
                (space(node), outputs, space(node).outgoing),
            ):
                one.is_fixed = one.is_fixed or one.size not in (0, size)
                one.size = size
                names.append(name)
        for name, node in self.norms:
            space(node).norms.append(name)
        for node in self.fixed:
            space(node).is_fixed = True
        used = [name for one in found.values() for name in one.outgoing]
        for one in found.values():  # a layer that runs twice ties two spaces
            one.is_fixed = one.is_fixed or any(used.count(name) > 1 for name in one.outgoing)
            one.is_fixed = one.is_fixed or not one.outgoing or not one.incoming
        return [one for one in found.values() if not one.is_fixed]

    def _root(self, node: fx.Node) -> fx.Node:
        while self.parent[node] is not node:
            node = self.parent[node]
        return node

    def _join(self, one: fx.Node, other: fx.Node) -> None:
        self.parent[self._root(one)] = self._root(other)


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, Convolution)
    return module.in_channels, module.out_channels


def _other_activation(what: str) -> ModelError:
    return ModelError(
        f"{what} is an activation that does not keep positive factors, f(s x) = s f(x): expected "
        "ReLU or leaky ReLU alone, through which a channel can be rescaled without changing what "
        "the model does"
    )

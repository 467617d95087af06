"""Which layers share their channels: what must be permuted or rescaled together."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from paramattr.errors import ModelError
from paramattr.surgery.plain_models import check_code, copied
from paramattr.units.channels import Tracer

Convolution = nn.modules.conv._ConvNd
# Kinds are looked up exactly: a subclass, as of quantisation, may do something else.
_LAYERS: dict[type, int] = {
    nn.Linear: -1,
    nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4,
    nn.ConvTranspose1d: -2, nn.ConvTranspose2d: -3, nn.ConvTranspose3d: -4,
}  # fmt: skip
"""The dimension of a layer's channels, from the end: a batch may be missing, or be several."""
_NORMS: dict[type, tuple[int, ...]] = {
    nn.BatchNorm1d: (-1, -2), nn.BatchNorm2d: (-3,), nn.BatchNorm3d: (-4,),
    nn.SyncBatchNorm: (-1, -2, -3, -4),
}  # fmt: skip
_MODULES: dict[type, int] = {
    nn.ReLU: 0, nn.LeakyReLU: 0, nn.Identity: 0,
    nn.Dropout: 0, nn.Dropout1d: 0, nn.Dropout2d: 0, nn.Dropout3d: 0,
    nn.AlphaDropout: 0, nn.FeatureAlphaDropout: 0,
    nn.MaxPool1d: 1, nn.AvgPool1d: 1, nn.AdaptiveMaxPool1d: 1, nn.AdaptiveAvgPool1d: 1,
    nn.MaxPool2d: 2, nn.AvgPool2d: 2, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveAvgPool2d: 2,
    nn.MaxPool3d: 3, nn.AvgPool3d: 3, nn.AdaptiveMaxPool3d: 3, nn.AdaptiveAvgPool3d: 3,
    nn.ZeroPad2d: 2, nn.ReflectionPad2d: 2, nn.ReplicationPad2d: 2,
    nn.Upsample: 1,
}  # fmt: skip
"""f(s x) = s f(x) for s > 0, channel by channel; and how many of the last dimensions they mix."""
_FUNCTIONS: dict[Any, int] = {
    F.relu: 0, torch.relu: 0, "relu": 0, "relu_": 0, F.leaky_relu: 0, F.dropout: 0,
    "contiguous": 0, "clone": 0,
    F.max_pool2d: 2, F.avg_pool2d: 2, F.adaptive_avg_pool2d: 2, F.interpolate: 1,
}  # fmt: skip
_ACTIVATIONS = (
    nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Hardtanh,
    nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.Softmax, nn.PReLU, nn.RReLU,
)  # fmt: skip
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

    def __str__(self) -> str:
        made, read = (", ".join(map(repr, names)) for names in (self.outgoing, self.incoming))
        return f"the channels made by {made} and read by {read}"

    @property
    def layers(self) -> list[tuple[str, str]]:
        """The layers and their side: "out" makes the channels, "in" reads them."""
        return [(n, "out") for n in self.outgoing] + [(n, "in") for n in self.incoming]

    @property
    def touched(self) -> set[str]:
        """All modules that hold something per channel."""
        return {*self.outgoing, *self.incoming, *self.norms}


def traced(model: nn.Module) -> fx.Graph:
    """Trace what a model does in evaluation mode.

    Raises:
        ModelError: if it cannot be traced, or has hooks.
    """
    check_code(model)
    other = copied(model).eval()  # the tracer keeps constants in what it traces
    try:
        return Tracer().trace(other)
    except Exception as error:  # control flow that depends on values fails in many ways
        raise ModelError(
            f"the model ({type(model).__name__}) cannot be traced ({error}): expected one without "
            "control flow that depends on its inputs' values"
        ) from error


def channel_spaces(model: nn.Module, graph: fx.Graph | None = None) -> list[Space]:
    """Trace a model, and give the channels that may be permuted and rescaled.

    Args:
        model: of convolutions (ungrouped), linear layers, (leaky) ReLU, sums, poolings and batch
            norms. What is none of these keeps the channels that it touches as they are, and so
            does a parameter that is read in two places.
        graph: what `traced` gave, if it is at hand.

    Raises:
        ModelError: if the model cannot be traced, or has another activation or hooks.
    """
    trace = _Trace(model)
    for node in (graph or traced(model)).nodes:
        trace.visit(node)
    return trace.spaces()


class _Trace:
    """The spaces of a graph's nodes: sets of nodes whose channels are the same."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.parent: dict[fx.Node, fx.Node] = {}
        self.axis: dict[fx.Node, int | None] = {}  # of the channels; None where they are fixed
        self.fixed: list[fx.Node] = []
        self.layers: list[tuple[str, fx.Node, fx.Node]] = []
        self.norms: list[tuple[str, fx.Node]] = []
        self.reads: Counter[int] = Counter()  # of each parameter, by where it lies

    def visit(self, node: fx.Node) -> None:
        self.parent[node], self.axis[node] = node, None
        sources = _arguments(node)
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            self.reads.update(_places(module))
            self._module(node, module, sources)
        elif node.op in ("call_function", "call_method"):
            self._function(node, sources)
        else:  # an input, a parameter of its own, or the output
            if node.op == "get_attr":
                self.reads.update(_places(_attribute(self.model, str(node.target))))
            self._fix(node, *sources)

    def _module(self, node: fx.Node, module: nn.Module, sources: list[fx.Node]) -> None:
        kind, name = type(module), str(node.target)
        if isinstance(module, _ACTIVATIONS):
            raise _other_activation(f"layer {name!r} ({kind.__name__})")
        if len(sources) != 1:
            self._fix(node, *sources)
        elif kind in _LAYERS and getattr(module, "groups", 1) == 1:
            self._layer(node, name, _LAYERS[kind], sources[0])
        elif kind in _NORMS and self.axis[sources[0]] in _NORMS[kind]:
            self.norms.append((name, node))
            self._join(node, sources[0])
        elif kind in _MODULES:
            self._apart(node, sources[0], _MODULES[kind])
        else:
            self._fix(node, *sources)

    def _layer(self, node: fx.Node, name: str, axis: int, source: fx.Node) -> None:
        if self.axis[source] not in (None, axis):  # along the length: it makes no new channels
            self._fix(node, source)
        else:
            self.axis[node] = axis
            self.layers.append((name, source, node))

    def _function(self, node: fx.Node, sources: list[fx.Node]) -> None:
        if node.target in _REFUSED:
            raise _other_activation(f"the function {getattr(node.target, '__name__', node.target)}")
        others = [value for value in node.args if not isinstance(value, fx.Node)]
        is_scaled = len(sources) == 1 and all(isinstance(value, int | float) for value in others)
        if node.target in _ADDS and len(set(sources)) == len(sources) == 2:
            self._join(node, *sources)
        elif node.target in _SCALES and is_scaled and not node.kwargs:
            self._join(node, sources[0])
        elif node.target in _FUNCTIONS and sources and sources.count(sources[0]) == 1:
            self._fix(*sources[1:])  # they say a size or a slope
            self._apart(node, sources[0], _FUNCTIONS[node.target])
        else:
            self._fix(node, *sources)

    def _apart(self, node: fx.Node, source: fx.Node, mixed: int) -> None:
        """Join where the channels are not among the last dimensions, which are mixed."""
        axis = self.axis[source]
        if axis is not None and axis < -mixed:
            self._join(node, source)
        else:
            self._fix(node, source)

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
        for one in found.values():
            names = [*one.outgoing, *one.incoming, *one.norms]
            one.is_fixed = one.is_fixed or any(map(self._is_shared, names))
            one.is_fixed = one.is_fixed or any(
                self.modules[name].num_features != one.size for name in one.norms
            )
            one.is_fixed = one.is_fixed or not one.outgoing or not one.incoming
        return [one for one in found.values() if not one.is_fixed]

    def _is_shared(self, name: str) -> bool:
        """Say whether what a layer holds is read elsewhere too: a change would be seen there."""
        return any(self.reads[place] > 1 for place in _places(self.modules[name]))

    def _root(self, node: fx.Node) -> fx.Node:
        while self.parent[node] is not node:
            node = self.parent[node]
        return node

    def _fix(self, *nodes: fx.Node) -> None:
        self.fixed += nodes

    def _join(self, node: fx.Node, *sources: fx.Node) -> None:
        axes = {self.axis[source] for source in sources}
        if None in axes or len(axes) > 1:
            self._fix(node, *sources)
            return
        self.axis[node] = axes.pop()
        for source in sources:
            self.parent[self._root(node)] = self._root(source)


def _arguments(node: fx.Node) -> list[fx.Node]:
    """List the nodes among what is given, each as often as it is given: h * h reads h twice."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _places(holder: object) -> set[int]:
    """Say where the parameters and buffers lie that something holds: views and ties lie alike."""
    if isinstance(holder, nn.Module):
        return {t.data_ptr() for t in (*holder.parameters(), *holder.buffers()) if t.numel()}
    return {holder.data_ptr()} if isinstance(holder, Tensor) else set()


def _attribute(model: nn.Module, path: str) -> object:
    """Give what lies at a path; None for a constant, which only the traced copy holds."""
    value: object = model
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


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

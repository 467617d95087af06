"""Channels as units: a layer's rows and biases, and the norms that follow it.

A norm follows a layer if it reads this layer's output, and nothing else.

A trace proposes which norm reads which layer through what. What lies between is then run alone, on
random outputs of the layer: one channel of it is changed, and one entry of what the norm holds. An
entry belongs to the channel if both changes are seen at one place of one axis, and nowhere else.

Where a model cannot be traced, its modules are, each alone. A norm in none of them follows nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, fx, nn

from paramattr.parameters import STATISTICS, Statistics, owners
from paramattr.units.grid import UNKNOWN, Answer, OfModel, Reducer, Units, along, counted, looked_up
from paramattr.units.layouts import CONVOLUTIONS, by_parameter, group_of, is_dense, joined
from paramattr.units.sandbox import aside, copied, ends_and_middle

_NORMS = (Statistics, nn.LayerNorm, nn.GroupNorm)
_ASIDE = (9, 8, 7)
"""Sizes of what lies beside the channels: enough for a pooling by two, and unlike."""


@partial(OfModel, of_buffers=True)
def channel(model: nn.Module) -> Reducer:
    """Take all that makes one channel of a convolution or linear layer as a unit.

    It holds the row of the weight, the bias, and what a norm that reads this layer's output and
    nothing else holds for the channel: weight, bias and running statistics. The group is the path
    of the layer, and the position is `(channel,)`.

    The layer that a norm follows is known by a trace of the model that a run bears out: batch,
    instance, group and layer norms, and others by name. A norm that reads something else, such as a
    sum with a shortcut, is left out with a warning, and so are all other parameters, such as
    embeddings. In a model that cannot be traced its modules are, each alone.
    """
    answers: dict[str, Answer] = {name: UNKNOWN for name, _ in model.named_parameters()}
    rows = {
        name: own
        for name, own in by_parameter(model).items()
        if is_dense(own.module) and not own.experts and own.output is not None
    }
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


@dataclass(frozen=True)
class Following:
    """The layer that a norm follows.

    Attributes:
        layer: path of the layer.
        axes: name of each tensor that the norm holds (weight, bias, statistics) to the dimension
            that counts the layer's channels there.
    """

    layer: str
    axes: Mapping[str, int]


class Tracer(fx.Tracer):
    """Traces what a model does.

    Args:
        is_whole: function that says which modules are one step each, beside those of PyTorch.
    """

    def __init__(self, is_whole: Callable[[nn.Module], bool] = lambda module: False) -> None:
        super().__init__()
        self._is_whole = is_whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether a module is one step of the trace."""
        return self._is_whole(m) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Stand for a value."""
        return _Value(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Take one step, or look into the module."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except NameError:  # a part that the model made while it ran, as a slice of a Sequential
            return forward(*args, **kwargs)


class _Value(fx.Proxy):
    """A value of the traced model, which says that it is an ordinary tensor on the CPU."""

    device, dtype, is_cuda = torch.device("cpu"), torch.float32, False


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a norm: by class, or one that is called so and holds something."""
    named = "norm" in type(module).__name__.lower() and bool(module._parameters)
    return isinstance(module, _NORMS) or (named and not hasattr(module, "parametrizations"))


def followers(model: nn.Module, layers: Mapping[str, int]) -> dict[str, Following]:
    """Find the norms that read one layer's output and nothing else.

    Args:
        model: the whole model.
        layers: path of each layer to the dimension of its output that counts channels, from the
            end.

    Returns:
        Path of each such norm to the layer.
    """
    found: dict[str, Following] = {}
    with aside():
        for path, several in _proposed(model, layers).items():
            if None in several or len({chain.layer for chain in several if chain}) != 1:
                continue
            axes = [chain.axes(model.get_submodule(path)) for chain in several if chain]
            if axes[0] and all(own == axes[0] for own in axes):
                found[path] = Following(next(c.layer for c in several if c), axes[0])
    return found


@dataclass
class _Chain:
    """The steps between a layer and one call of a norm.

    Attributes:
        layer: path of the layer.
        channels: the dimension of its output that counts channels, from the end.
        start: the layer's call.
        end: the step whose value the norm reads.
        model: the model that holds the modules in between, under `prefix`.
        prefix: path of the module that was traced.
        between: the steps in between, `end` among them.
    """

    layer: str
    channels: int
    start: fx.Node
    end: fx.Node
    model: nn.Module
    prefix: str
    between: set[fx.Node] = field(default_factory=set)

    def axes(self, norm: nn.Module) -> dict[str, int]:
        """Give the dimension of the channels in all that a norm holds; nothing unless in all."""
        layer = self.model.get_submodule(self.layer)
        size = _channels(layer)
        for shape in _shapes(self.channels, size, norm):
            try:
                found = self._run(norm, shape, size)
            except Exception:  # whatever lies between asks for another shape
                continue
            if found:
                return found
        return {}

    def _run(self, norm: nn.Module, shape: tuple[int, ...], size: int) -> dict[str, int]:
        draw = torch.Generator().manual_seed(0)
        between, own = self._module(draw), copied(norm, _drawing(draw), {}).eval()
        output = torch.randn(shape, generator=draw)
        read = between(output)
        changed = [output.clone() for _ in ends_and_middle(size)]
        for place, other in zip(ends_and_middle(size), changed, strict=True):
            other.select(self.channels, place).mul_(-3).add_(0.5)
        axis = _axis([between(other) != read for other in changed], size)
        held = {
            name: tensor
            for name, tensor in (*own._parameters.items(), *own._buffers.items())
            if tensor is not None and (name in own._parameters or name in STATISTICS)
        }
        dimensions = {name: _dimension(own, read, t, size, axis) for name, t in held.items()}
        known = {name: d for name, d in dimensions.items() if d is not None}
        return known if axis is not None and len(known) == len(held) else {}

    def _module(self, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
        graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
        made[self.start] = graph.placeholder("output")
        parts: dict[str, Any] = {}
        for node in self.start.graph.nodes:
            if node in self.between:
                made[node] = graph.node_copy(node, made.__getitem__)
                if node.op == "call_module":
                    part = self.model.get_submodule(joined(self.prefix, str(node.target)))
                    parts[str(node.target)] = copied(part, _drawing(draw), {}).eval()
        graph.output(made[self.end])
        return fx.GraphModule(parts, graph)


def _proposed(model: nn.Module, layers: Mapping[str, int]) -> dict[str, list[_Chain | None]]:
    """Give what lies before each call of a norm; None for a call that reads something else."""
    found: dict[str, list[_Chain | None]] = {}
    for prefix, graph in _graphs(model, "", layers):
        for node in graph.nodes:
            if node.op == "call_module":
                path = joined(prefix, str(node.target))
                if path not in layers and is_norm(model.get_submodule(path)):
                    found.setdefault(path, []).append(_chain(model, prefix, node, layers))
    return found


def _graphs(
    model: nn.Module, path: str, layers: Mapping[str, int]
) -> Iterator[tuple[str, fx.Graph]]:
    """Trace a module, or else each of its children."""
    module = model.get_submodule(path)
    inner = {joined(path, name): m for name, m in module.named_modules() if name}
    if not any(is_norm(m) for m in inner.values()):
        return
    try:
        yield from [(path, graph) for graph in _traced(module, layers, path)]
    except Exception:  # control flow that depends on values fails in many ways
        for name, _ in module.named_children():
            yield from _graphs(model, joined(path, name), layers)


def _traced(module: nn.Module, layers: Mapping[str, int], path: str) -> list[fx.Graph]:
    # On values of no size: the trace looks at none. What a call may leave out is given once and
    # left out once, since each may lead another way.
    new: dict[int, nn.Parameter] = {}
    other = copied(module, lambda p: nn.Parameter(torch.empty(p.shape, device="meta")), new).eval()
    whole = {id(m) for name, m in other.named_modules() if joined(path, name) in layers}
    options = inspect.signature(type(module).forward).parameters.values()
    defaults = {p.name: p.default for p in options if p.default is not inspect.Parameter.empty}
    graphs, failed = list[fx.Graph](), list[Exception]()
    for given in [None, defaults] if defaults else [None]:
        tracer = Tracer(lambda m: id(m) in whole or is_norm(m))
        try:
            graphs.append(tracer.trace(other, concrete_args=given))
        except Exception as error:
            failed.append(error)
    if not graphs:
        raise failed[0]
    return graphs


def _chain(
    model: nn.Module, prefix: str, norm: fx.Node, layers: Mapping[str, int]
) -> _Chain | None:
    """Go back from what a norm reads to the one layer that all of it comes from."""
    sources = norm.all_input_nodes
    if len(sources) != 1:
        return None
    waiting, between, starts = [sources[0]], set[fx.Node](), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        is_module = node.op == "call_module"
        if is_module and joined(prefix, str(node.target)) in layers:
            starts.add(node)
        elif node.op in ("placeholder", "get_attr"):
            return None
        elif node not in between:
            between.add(node)
            waiting += node.all_input_nodes
    if len(starts) != 1:
        return None
    (start,) = starts
    modules = [n for n in (start, norm, *between) if n.op == "call_module"]
    paths = [joined(prefix, str(node.target)) for node in modules]
    if any(_has_hooks(model.get_submodule(path)) for path in paths):
        return None
    if any(_writes(user) for node in (start, *between) for user in node.users):
        return None
    layer = joined(prefix, str(start.target))
    return _Chain(layer, layers[layer], start, sources[0], model, prefix, between)


def _has_hooks(module: nn.Module) -> bool:
    """Say whether a hook of the user's may change what a module gives: a trace does not see it."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(not type(hook).__module__.startswith("torch.nn.utils") for hook in hooks)


def _writes(node: fx.Node) -> bool:
    """Say whether a step writes on what it is given, which others read by the same name."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    is_step = node.op in ("call_method", "call_function")
    written = str(name).endswith("_") and not str(name).endswith("__")
    return is_step and (written or name == "setitem" or "out" in node.kwargs)


def _channels(layer: nn.Module) -> int:
    for name in ("out_features", "out_channels", "nf"):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    raise ValueError("a layer that does not say how many channels it makes")


def _shapes(channels: int, size: int, norm: nn.Module) -> Iterator[tuple[int, ...]]:
    """Give shapes that the layer's output may have."""
    normalized = tuple(getattr(norm, "normalized_shape", ()) or ())
    if channels == -1:
        for beside in ((5,), (), (5, 6), normalized[:-1]):
            yield (2, *beside, size)
        return
    yield (2, size, *_ASIDE[: -channels - 1])
    if len(normalized) == -channels:
        yield (2, *normalized)


def _axis(moved: list[Bool[Tensor, "..."]], size: int) -> int | None:
    """Give the axis along which each change is seen at its own place alone."""
    for axis in range(-1, -moved[0].ndim - 1, -1):
        if moved[0].shape[axis] == size and all(
            _at(one, axis) == [place]
            for place, one in zip(ends_and_middle(size), moved, strict=True)
        ):
            return axis
    return None


def _at(moved: Bool[Tensor, "..."], axis: int) -> list[int]:
    flat: Tensor = moved.movedim(axis, 0).flatten(1).any(1)
    return flat.nonzero().flatten().tolist()


def _dimension(
    norm: nn.Module, read: Tensor, held: Tensor, size: int, axis: int | None
) -> int | None:
    """Give the dimension of what a norm holds that counts the channels."""
    before, kept = norm(read), held.detach().clone()
    for dimension in [d for d, length in enumerate(held.shape) if length == size]:
        moved = []
        for place in ends_and_middle(size):
            with torch.no_grad():
                held.select(dimension, place).mul_(3).add_(1)
                moved.append(norm(read) != before)
                held.copy_(kept)
        if axis is not None and _axis(moved, size) == axis:
            return dimension
    return None


def _drawing(draw: torch.Generator) -> Callable[[nn.Parameter], nn.Parameter]:
    return lambda like: nn.Parameter(torch.rand(like.shape, generator=draw) + 0.5)

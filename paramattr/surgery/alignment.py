"""Alignment: channels of one model permuted and scaled to match another's."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, fx, nn

from paramattr.errors import ModelError, ParamattrError
from paramattr.parameters import align as aligned_values
from paramattr.surgery.same_function import Behaviour, Inputs, check_code, check_weights, copied
from paramattr.units.channels import Tracer
from paramattr.wrappers import unwrapped

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
        size: number of channels; 0 where no layer says.
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
        model: network of convolutions (ungrouped), linear layers, (leaky) ReLU, sums, poolings and
            batch norms. What is none of these keeps the channels that it touches as they are, and
            so does a parameter that is read in two places.
        graph: graph that `traced` gave, if it is at hand.

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


_SWEEPS, _ROUGH = 20, 2
SIDES = ("out", "in")
"""Of a channel: what makes it, and what reads it."""
_LARGEST = math.log(1e3)
"""A channel's factor stays within 1e-3 to 1e3: trained layers differ by less, and the fits of
layers with nothing in common by anything. A weight moves by up to 1e6, which float32 holds."""
_STILL, _FARTHER = 1e-6, 1.1
"""The change of a factor that ends the sweeps; how much farther than the nearest the last is."""
_Match = Callable[[Float[Tensor, "target fitted"]], Int[Tensor, "channels"]]
_PerChannel = Float[Tensor, "channels"]


def align(
    baseline: nn.Module,
    target: nn.Module,
    *,
    permute: bool = True,
    rescale: bool = True,
    inputs: Inputs | None = None,
) -> nn.Module:
    """Permute and rescale hidden channels to fit another model, which changes no function.

    Two networks of one function may hold their channels in another order, or larger here and
    smaller there: with (leaky) ReLU a channel that is made `s` times larger and read `1 / s` times
    as strongly does the same. The straight line between such forms leads through damaged models.
    Layer by layer, in turns until nothing changes, channels take the order in which their weights
    are most like the target's, and the factor, from 1e-3 to 1e3, that fits what makes them and what
    reads them. Where that leads away from the target, the nearest form on the way is given.

    Channels that something else reads keep their order and size: outputs, products, unknown layers,
    weights that two places share. Before anything is returned, both forms run in evaluation mode
    and their outputs are compared.

    Args:
        baseline: model that is brought into another form; it is left as it is.
        target: the model that it is to fit, of the same architecture.
        permute: whether the order of channels may change. This needs SciPy.
        rescale: whether their size may change. Channels of a batch norm keep theirs.
        inputs: sample batch to compare outputs on: a tensor, a tuple of arguments or a mapping of
            keyword arguments. Without it, inputs are made that fit the first layers.

    Returns:
        A new model that does what the baseline does, up to rounding.

    Raises:
        ModelError: if the two are not of one architecture, or the model cannot be traced, has an
            activation other than (leaky) ReLU, hooks, computed weights or no channels that can
            change, if no inputs could be made for it, or if its other form does something else.
        DataError: if the baseline cannot run on `inputs`.
        ParamattrError: if SciPy is missing.

    Source: Ainsworth et al. 2023, "Git Re-Basin", Sec. 3.2 (weight matching), here with factors.

    >>> import copy
    >>> target = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> baseline = copy.deepcopy(target)
    >>> with torch.no_grad():
    ...     for parameter in (baseline[0].weight, baseline[0].bias):
    ...         _ = parameter.copy_(2 * parameter[[2, 0, 1]])
    ...     _ = baseline[2].weight.copy_(baseline[2].weight[:, [2, 0, 1]] / 2)
    >>> torch.allclose(align(baseline, target)[0].weight, target[0].weight)
    True
    """
    baseline, target = unwrapped(baseline), unwrapped(target)
    if not isinstance(baseline, nn.Module) or not isinstance(target, nn.Module):
        raise ModelError("align takes two modules: load a state dict into one first")
    for model, role in ((baseline, "baseline"), (target, "target")):
        check_weights(model, role)
    aligned_values(target, baseline)  # refuses what is not of one architecture
    graph = traced(baseline)
    spaces = channel_spaces(baseline, graph)
    match = _matcher() if permute else None
    if not spaces:
        raise ModelError(
            f"the model ({type(baseline).__name__}) has no hidden channels whose order or size may "
            "change: expected some that plain layers make and read, through (leaky) ReLU, sums, "
            "poolings and batch norms alone; outputs, products, other layers and weights that two "
            "places share keep theirs. Compare the models in the form that they have"
        )
    behaviour = Behaviour(baseline, graph, inputs)
    with torch.no_grad():
        _check_spaces(baseline, spaces, behaviour)
        fitted = _formed(baseline, _Fit(baseline, target, spaces).forms(match, rescale=rescale))
    change = behaviour.change(fitted)
    if not change <= behaviour.rounding:
        raise ModelError(
            f"the aligned model's outputs differ by {change:.2g} of their range, more than "
            f"rounding explains ({behaviour.rounding:.2g}): expected the same function; align "
            "models of a higher precision, as with .float() or .double(), or give rescale=False"
        )
    return fitted


@dataclass
class Form:
    """Where a space's channels go and how large: `order[k]` to place `k`, by a factor."""

    space: Space
    order: Int[Tensor, "channels"]
    logs: Float[Tensor, "channels"]


def _formed(model: nn.Module, forms: list[Form]) -> nn.Module:
    """Copy a model into another form; in float64, so that weights are rounded once."""
    formed, wide = copied(model), _wide(model)
    for form in forms:
        reorder_space(wide, form.space, form.order)
        multiply_space(wide, form.space, form.logs.exp())
    for name in {name for form in forms for name in form.space.touched}:
        own, values = (_tensors(one.get_submodule(name)) for one in (formed, wide))
        for tensor, value in zip(own, values, strict=True):
            tensor.copy_(value)
    return formed


def _wide(model: nn.Module) -> nn.Module:
    return copied(model).to("cpu", torch.float64)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _check_spaces(model: nn.Module, spaces: list[Space], behaviour: Behaviour) -> None:
    """Bring the channels into a form drawn by chance, whose weights are far from the model's.

    The fitted form may be close to the model, and differ from it by less than shows. Factors are
    powers of two, which no number is rounded by.
    """
    draw = torch.Generator().manual_seed(0)
    forms = []
    for space in spaces:
        logs = torch.randint(-2, 3, (space.size,), generator=draw).double() * math.log(2)
        logs *= 0 if space.norms else 1
        forms.append(Form(space, torch.randperm(space.size, generator=draw), logs))
    ready = behaviour.ready(model)
    change = behaviour.change(_formed(ready, forms))
    if change <= behaviour.tolerance:
        return
    worst = max(forms, key=lambda form: behaviour.change(_formed(ready, [form]))).space
    raise ModelError(
        f"outputs change by {change:.2g} of their range when hidden channels are permuted and "
        f"rescaled, above all {worst}: expected no change; the model uses them or these weights "
        "in a way that its trace does not show. Compute this part with layers of torch.nn alone, "
        "or compare the models in the form that they have"
    )


class _Fit:
    """Another form of the baseline, which approaches the target sweep by sweep."""

    def __init__(self, baseline: nn.Module, target: nn.Module, spaces: list[Space]) -> None:
        self.fitted = _wide(baseline)
        self.target = target
        self.views = [_Views(self.fitted, target, space) for space in spaces]
        self.layers = sorted({name for space in spaces for name, _ in space.layers})

    def forms(self, match: _Match | None, *, rescale: bool) -> list[Form]:
        """Sweep until nothing changes; models with nothing in common may not, or be far by then."""
        distance = nearest = self._distance()
        best, has_moved = self._seen(), True
        for sweep in range(_SWEEPS):
            is_rough = sweep < _ROUGH
            by_length, has_moved, step = is_rough or has_moved, False, 0.0
            for views in self.views:
                if match is not None:
                    has_moved |= views.permute(match(views.likeness(by_entries=not is_rough)))
                if rescale and not views.space.norms:
                    step = max(step, views.rescale(by_length=by_length))
            distance = self._distance()
            if distance < nearest:
                nearest, best = distance, self._seen()
            if not has_moved and step < _STILL and not is_rough:
                break
        return self._seen() if distance <= _FARTHER * nearest else best

    def _seen(self) -> list[Form]:
        return [Form(v.space, v.order.clone(), v.logs.clone()) for v in self.views]

    def _distance(self) -> float:
        """Add up the layers' squared distances, each relative to the target's weights."""
        total = 0.0
        for name in self.layers:
            target, fitted = (_rows(model, name, "out") for model in (self.target, self.fitted))
            square = target.square().sum()
            total += float((target - fitted).square().sum() / square) if square > 0 else 0.0
        return total


class _Views:
    """The weights of two models for the channels of one space, a row per channel."""

    def __init__(self, fitted: nn.Module, target: nn.Module, space: Space) -> None:
        self.space = space
        self.fitted, self.target = fitted, target
        self.order = torch.arange(space.size)
        self.logs = torch.zeros(space.size, dtype=torch.float64)

    def likeness(self, *, by_entries: bool) -> Float[Tensor, "target fitted"]:
        """Sum the cosines of every two channels over what makes them and what reads them.

        Args:
            by_entries: whether a side counts by its number of weights, as it should once the
                neighbouring layers are in order; before that a side of many says little.
        """
        total = torch.zeros(self.space.size, self.space.size, dtype=torch.float64)
        for side in SIDES:
            target, fitted = self._both(side)
            cosines = nn.functional.normalize(target) @ nn.functional.normalize(fitted).T
            total += cosines * (target.shape[1] if by_entries else 1)
        return total

    def permute(self, order: Int[Tensor, "channels"]) -> bool:
        """Put channel `order[k]` in place `k`."""
        if torch.equal(order, torch.arange(len(order))):
            return False
        reorder_space(self.fitted, self.space, order)
        self.order, self.logs = self.order[order], self.logs[order]
        return True

    def rescale(self, *, by_length: bool) -> float:
        """Give each channel the size that fits what makes it and what reads it.

            log s = (w_out log p_out - w_in log p_in) / (w_out + w_in),    p = <t, b> / |b|²

        A side counts by w = c² / (1 - c²), with c the cosine between the two models: the side that
        changed less says more. The factor that minimises the distance would fit the larger alone.

        Args:
            by_length: whether p is |t| / |b|, as it should be until channels have found their
                place. Beside another channel p is near 0 whatever the sizes, and neighbouring
                layers that shrink each other's channels by it do not end.

        Returns:
            The largest relative change of a factor.
        """
        logs, weights = zip(*(self._fit(side, by_length) for side in SIDES), strict=True)
        log = (weights[0] * logs[0] - weights[1] * logs[1]) / (weights[0] + weights[1])
        wanted = self.logs + torch.where(log.isfinite(), log, 0.0)
        steps = wanted.clamp(-_LARGEST, _LARGEST) - self.logs
        self.logs = self.logs + steps
        multiply_space(self.fitted, self.space, steps.exp())
        return float(steps.abs().max())

    def _fit(self, side: str, by_length: bool) -> tuple[_PerChannel, _PerChannel]:
        """Give the logarithm of p, and w, of one side; w is 0 where the two have no likeness."""
        target, fitted = self._both(side)
        product, square = (target * fitted).sum(1), fitted.square().sum(1)
        length = target.square().sum(1)
        cosine = product / (square * length).sqrt()
        is_alike = cosine > 1e-3
        ratio = (length / square).sqrt() if by_length else product / square
        weight = cosine.square() / (1 - cosine.square()).clamp(min=1e-9)
        return torch.where(is_alike, ratio, 1.0).log(), torch.where(is_alike, weight, 0.0)

    def _both(self, side: str) -> list[Float[Tensor, "channels entries"]]:
        names = self.space.outgoing if side == "out" else self.space.incoming
        return [
            torch.cat([_rows(model, name, side) for name in names], 1)
            for model in (self.target, self.fitted)
        ]


def _rows(model: nn.Module, name: str, side: str) -> Float[Tensor, "channels entries"]:
    module = model.get_submodule(name)
    weight = _by_output(module)
    rows = weight.flatten(1) if side == "out" else weight.transpose(0, 1).flatten(1)
    if side == "out" and module.bias is not None:
        rows = torch.cat([rows, module.bias[:, None]], 1)  # type: ignore[index]
    return rows.detach().double().cpu()


def _by_output(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    is_transposed = isinstance(module, Convolution) and module.transposed
    return weight.transpose(0, 1) if is_transposed else weight


def reorder(module: nn.Module, side: str, order: Int[Tensor, "channels"]) -> None:
    """Put a layer's channel `order[k]` in place `k`, of what it makes or of what it reads."""
    weight = _by_output(module)
    order = order.to(weight.device)
    if side == "out":
        weight.copy_(weight[order].clone())
        if module.bias is not None:
            module.bias.copy_(module.bias[order].clone())  # type: ignore[operator, index]
    else:
        weight.copy_(weight[:, order].clone())


def multiply(module: nn.Module, side: str, factors: Float[Tensor, "channels"]) -> None:
    """Multiply the weights of each of a layer's channels by its factor."""
    weight = _by_output(module)
    own = factors.to(weight)
    if side == "out":
        weight.mul_(own.reshape(-1, *[1] * (weight.ndim - 1)))
        if module.bias is not None:
            module.bias.mul_(own)  # type: ignore[operator]
    else:
        weight.mul_(own.reshape(1, -1, *[1] * (weight.ndim - 2)))


def reorder_space(model: nn.Module, space: Space, order: Int[Tensor, "channels"]) -> None:
    """Put channel `order[k]` in place `k`, in all that makes, normalises or reads it."""
    for name, side in space.layers:
        reorder(model.get_submodule(name), side, order)
    for name in space.norms:
        for tensor in _tensors(model.get_submodule(name)):
            if tensor.ndim == 1:
                tensor.copy_(tensor[order.to(tensor.device)].clone())


def multiply_space(model: nn.Module, space: Space, factors: Float[Tensor, "channels"]) -> None:
    """Make each channel larger by its factor, and read it as much less strongly."""
    for name, side in space.layers:
        multiply(model.get_submodule(name), side, factors if side == "out" else 1 / factors)


def _matcher() -> _Match:
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError:
        raise ParamattrError(
            "a permutation needs SciPy, which is not installed: pip install 'paramattr[align]', or "
            "give permute=False"
        ) from None

    def match(likeness: Float[Tensor, "target fitted"]) -> Int[Tensor, "channels"]:
        return torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])

    return match

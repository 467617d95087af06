"""Whether a model computes the same function in another form."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from paramattr.errors import DataError, ModelError, an, one_line

_COMPUTED = (
    (WeightNorm, "weight norm", "torch.nn.utils.remove_weight_norm(layer, {!r})"),
    (SpectralNorm, "spectral norm", "torch.nn.utils.remove_spectral_norm(layer, {!r})"),
    (prune.BasePruningMethod, "pruning", "torch.nn.utils.prune.remove(layer, {!r})"),
)
"""Hooks that compute a weight before a layer runs, and what makes it a parameter again."""


def copied(model: nn.Module) -> nn.Module:
    """Copy a model.

    Raises:
        ModelError: if it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the model's parts raise
        raise ModelError(
            f"the model ({type(model).__name__}) cannot be copied ({one_line(error)}): expected "
            "one that copy.deepcopy can copy; build it anew and load its state dict"
        ) from error


def check_weights(model: nn.Module, role: str) -> None:
    """Refuse weights that are computed from other parameters: they cannot be written to.

    Raises:
        ModelError: naming the layer, and what makes its weight a parameter again.
    """
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            for kind, how, way_out in _COMPUTED:
                if isinstance(hook, kind):
                    tensor = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight")
                    raise _computed(name, role, how, way_out.format(tensor))
        if parametrize.is_parametrized(module):
            tensor = next(iter(module.parametrizations))
            way_out = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {tensor!r})"
            raise _computed(name, role, "parametrization", way_out)


def check_code(model: nn.Module) -> None:
    """Refuse a model that does more than its classes say, which no trace shows.

    Raises:
        ModelError: naming the hook or the method, and the way out.
    """
    for name, module in model.named_modules():
        what = f"layer {name!r}" if name else f"the model ({type(module).__name__})"
        if module._forward_hooks or module._forward_pre_hooks:
            raise ModelError(
                f"{what} has a forward hook, which may do anything to its channels: expected a "
                "model without; remove the hook (handle.remove()), and set it on the aligned model"
            )
        if "forward" in vars(module):
            raise ModelError(
                f"{what} has a forward of its own, which its class has not: expected a model that "
                "does what its classes say; give that forward to a subclass"
            )


def _computed(name: str, role: str, how: str, way_out: str) -> ModelError:
    return ModelError(
        f"layer {name!r} of the {role} computes its weights anew in every pass ({how}): expected "
        f"weights that are plain parameters; make them so in both models, with {way_out}"
    )


Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
_SIZES = (8, 16, 32, 64, 28, *range(1, 65), 96, 128, 160, 192, 224, 256)
"""Sides of images and lengths of sequences to try: a flattened image fits one alone."""
_SHAPES_PER_SIZE, _LARGEST_MAP, _MOST_ENTRIES = 32, 16, 2**22
_WIDTHS = ("in_features", "in_channels", "input_size", "num_features", "embed_dim")
"""Attributes of modules that say how many features they read."""


@dataclass(frozen=True)
class _Call:
    """Arguments of one pass."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_Shapes = dict[str, tuple[int, ...]]


class Behaviour:
    """The outputs of a model in evaluation mode, on a sample batch or on inputs made for it.

    It runs in float64 where the model can: what differs then is another function, not rounding.

    Args:
        model: model whose outputs others are compared with; only copies of it run.
        graph: its trace, which says what its inputs are read by.
        inputs: sample batch: a tensor, a tuple of arguments or a mapping of keyword arguments.
            Without one, shapes are tried that fit the first layers.

    Attributes:
        rounding: the largest relative change of outputs that rounded weights explain.
        tolerance: the largest one for weights that are not rounded.

    Raises:
        DataError: if the model cannot run on `inputs`.
        ModelError: if there are none, and none could be made.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, inputs: Inputs | None) -> None:
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
        self.rounding = max(float(torch.finfo(kind).eps) for kind in kinds) ** 0.5
        found = _made(model, graph) if inputs is None else _given(model, _as_call(inputs))
        self._is_wide, self._call = found
        self.tolerance = 1e-9 if self._is_wide else self.rounding
        self._outputs = _outputs(self.ready(model), self._call)
        noise = 2**-52 if self._is_wide else self.rounding**2
        self._least = 100 * noise / self.tolerance
        """The smallest share of an output's size that its changes can be told from noise in."""

    def ready(self, model: nn.Module) -> nn.Module:
        """Copy a model, in evaluation mode and the precision that is compared in."""
        return _ready(model, self._is_wide)

    def change(self, other: nn.Module) -> float:
        """Give the largest change of outputs, relative to how far rows differ; inf if it fails."""
        try:
            return _change(self._outputs, _outputs(self.ready(other), self._call), self._least)
        except Exception:  # another form that does not run is another function
            return float("inf")


def _ready(model: nn.Module, is_wide: bool) -> nn.Module:
    other = copied(model).eval()
    return other.double() if is_wide else other


def _given(model: nn.Module, call: _Call) -> tuple[bool, _Call]:
    wide = _cast(call, model, torch.float64)
    try:
        outputs, is_wide = _outputs(_ready(model, True), wide), True
    except Exception:  # some models fix a precision of their own
        try:
            outputs, is_wide = _outputs(_ready(model, False), call), False
        except Exception as error:  # whatever the model raises
            raise DataError(
                f"the baseline ({type(model).__name__}) fails on inputs ({one_line(error)}): "
                "expected a batch that it takes, as a tensor, a tuple of arguments or a mapping of "
                "keyword arguments"
            ) from error
    if not outputs or not _are_finite(outputs):
        raise DataError(
            "the baseline's outputs on inputs hold no numbers, or some that are not finite: "
            "expected finite ones, which can be compared"
        )
    return is_wide, wide if is_wide else call


def _made(model: nn.Module, graph: fx.Graph) -> tuple[bool, _Call]:
    """Find a call that runs and whose outputs depend on the inputs, few dimensions first.

    One is enough, and more would be wrong: with as many steps as features, a batch norm after a
    linear layer takes steps for channels, which its model never meant.
    """
    own = next(p.dtype for p in model.parameters() if p.is_floating_point())
    models = [(True, torch.float64, _ready(model, True)), (False, own, _ready(model, False))]
    for shapes in _made_shapes(model, graph):
        for is_wide, dtype, one in models:
            calls = (_telling_call(one, shape, dtype) for shape in shapes)
            found = next(filter(None, calls), None)
            if found is not None:
                return is_wide, found
    raise ModelError(
        f"no inputs could be made for the model ({type(model).__name__}) that it takes and that "
        "change its outputs, so that it cannot be checked whether its aligned form does the same: "
        "give a sample batch, inputs=... (a tensor, a tuple of arguments, or a mapping of keyword "
        "arguments)"
    )


def _telling_call(model: nn.Module, shapes: _Shapes, dtype: torch.dtype) -> _Call | None:
    """Give a call of some shapes, if it runs and two draws give different outputs."""
    calls = (_cast(_Call((), _drawn(shapes, seed)), model, dtype) for seed in (0, 1))
    try:
        call = next(calls)
        outputs = _outputs(model, call)
        others = _outputs(model, next(calls))
    except Exception:  # not a shape that the model takes
        return None
    return call if _are_finite(outputs) and _change(outputs, others) > 0 else None


def _are_finite(outputs: list[Tensor]) -> bool:
    return all(bool(output.isfinite().all()) for output in outputs)


def _outputs(model: nn.Module, call: _Call) -> list[Tensor]:
    """Run a model from one state of chance, which is then as it was."""
    places = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    gpus = sorted({place.index for place in places if place.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=gpus), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(0)
        made = model(*call.args, **call.kwargs)
    return [output.detach().cpu().double().clone() for output in _tensors(made)]


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield torch.view_as_real(value) if value.is_complex() else value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(value):
        yield from _tensors(list(vars(value).values()))


def _change(expected: list[Tensor], found: list[Tensor], least: float = 1.0) -> float:
    if [output.shape for output in expected] != [output.shape for output in found]:
        return float("inf")
    changes = [0.0]
    for one, other in zip(expected, found, strict=True):
        if one.numel() and not torch.equal(one, other):
            # A large bias of the output layer would hide what hidden channels do.
            apart = (one - one.roll(1, 0)).abs().max() if one.ndim else one.new_zeros(())
            size = one.abs().max()
            scale = torch.maximum(apart, least * size) if apart > 0 else size
            ratio = float((one - other).abs().max() / scale)
            changes.append(ratio if ratio == ratio else float("inf"))
    return max(changes)


def _as_call(inputs: Inputs) -> _Call:
    if isinstance(inputs, Mapping):
        return _Call((), dict(inputs))
    if isinstance(inputs, tuple | list):
        return _Call(tuple(inputs))
    if isinstance(inputs, Tensor):
        return _Call((inputs,))
    raise DataError(
        f"inputs is {an(type(inputs))}: expected a tensor, a tuple of arguments or a "
        "mapping of keyword arguments"
    )


def _cast(call: _Call, model: nn.Module, dtype: torch.dtype) -> _Call:
    device = next(model.parameters()).device

    def own(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)
        if type(value) in (list, tuple):
            return type(value)(map(own, value))
        return {key: own(part) for key, part in value.items()} if type(value) is dict else value

    return _Call(own(call.args), own(dict(call.kwargs)))


def _made_shapes(model: nn.Module, graph: fx.Graph) -> Iterator[list[_Shapes]]:
    """Give shapes to try for all arguments, size by size, each once."""
    wanted = {
        str(node.target): _readers(node, model)
        for node in graph.nodes
        if node.op == "placeholder" and not node.args and not str(node.target).startswith("*")
    }
    are_large = any(reader.dims or reader.tokens for own in wanted.values() for reader in own)
    rows, tried = 2 if are_large else 16, set()
    for size in _SIZES:
        choices = [_shapes(readers, rows, size) for readers in wanted.values()]
        combined = itertools.islice(itertools.product(*choices), _SHAPES_PER_SIZE)
        new = [shapes for shapes in combined if shapes not in tried]
        tried.update(new)
        yield [dict(zip(wanted, shapes, strict=True)) for shapes in new]


@dataclass(frozen=True)
class _Reader:
    """The first reader of an input: its features, the dimensions beside them, its tokens."""

    features: int = 0
    dims: int = 0
    tokens: int = 0


def _readers(source: fx.Node, model: nn.Module) -> list[_Reader]:
    found: dict[_Reader, None] = {}
    queue, seen = list(source.users), set()
    while queue:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        reader = _reader(node, model)
        if reader is None:
            queue += node.users
        else:
            found[reader] = None
    return list(found)[:2]


def _reader(node: fx.Node, model: nn.Module) -> _Reader | None:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return _Reader(tokens=module.num_embeddings)
        if isinstance(module, nn.modules.conv._ConvNd):
            return _Reader(module.in_channels, len(module.kernel_size))
        sizes = (getattr(module, name, None) for name in _WIDTHS)
        return next((_Reader(size) for size in sizes if isinstance(size, int)), None)
    if node.op != "call_function":
        return None
    for other in node.all_input_nodes:  # a layer of the user's own, such as F.linear(x, weight)
        if other.op != "get_attr":
            continue
        weight = dict(model.named_parameters(remove_duplicate=False)).get(str(other.target))
        if weight is None or weight.ndim < 2:
            continue
        if node.target is F.embedding:
            return _Reader(tokens=weight.shape[0])
        is_product = node.target in (torch.matmul, torch.mm) or "matmul" in str(node.target)
        return _Reader(weight.shape[0 if is_product else 1], weight.ndim - 2)
    return None


def _shapes(readers: list[_Reader], rows: int, size: int) -> list[tuple[int, ...]]:
    """List shapes that the readers of one input may take; those of whole numbers begin with -n."""
    shapes: list[tuple[int, ...]] = []
    for reader in readers:
        n, sides = reader.features, (size,) * reader.dims
        if reader.tokens:
            shapes += [(-reader.tokens, rows, size), (-reader.tokens, rows)]
        elif reader.dims:
            flat = n * size**reader.dims
            shapes += [(rows, n, *sides), (rows, *sides, n), (rows, *sides), (rows, flat)]
        else:
            shapes += [(rows, n), (rows, size, n), (rows, n, size)]
            if size <= _LARGEST_MAP:
                shapes += [(rows, n, size, size), (rows, size, size, n)]
    shapes = shapes or [(rows, 1), (rows,), (rows, size)]
    return [shape for shape in dict.fromkeys(shapes) if math.prod(shape) <= _MOST_ENTRIES]


def _drawn(shapes: _Shapes, seed: int) -> dict[str, Tensor]:
    """Draw inputs: half the rows as pixels in [0, 1], the others normal and larger."""
    draw, made = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        if shape[0] < 0:
            made[name] = torch.randint(-shape[0], shape[1:], generator=draw)
            continue
        value = 2 * torch.randn(shape, generator=draw, dtype=torch.float64)
        half = shape[0] // 2
        value[:half] = torch.rand(value[:half].shape, generator=draw, dtype=torch.float64)
        made[name] = value
    return made

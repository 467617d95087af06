"""Reducers: which entries of a parameter form a unit and share one score.

A reducer is any callable of `(name, parameter, module)`. It is called once per parameter, with the
full name, the values and the module that holds it. It returns `Units`, None to leave the parameter
out, or `UNKNOWN` to leave it out with a warning. For units that span modules, it may have
`for_model(model)`, which is called once with the whole model and returns such a callable.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from paramattr.errors import UnitError
from paramattr.parameters import owners
from paramattr.units.channels import channel
from paramattr.units.grid import UNKNOWN as UNKNOWN
from paramattr.units.grid import Answer, OfModel, along, asked_of, counted, looked_up, of_buffers
from paramattr.units.grid import Reducer as Reducer
from paramattr.units.grid import Units as Units
from paramattr.units.grid import layer_of as layer_of
from paramattr.units.heads import attention_head
from paramattr.units.layouts import CONVOLUTIONS, by_parameter, is_stack, stack_size
from paramattr.units.neurons import neuron

_LORA = re.compile(
    r"(?P<path>.*?)\.?lora_(embedding_)?(?P<side>[AB])\.(?P<adapter>[^.]+)(\.weight)?"
)


@of_buffers
def scalar(name: str, parameter: Tensor, module: nn.Module) -> Units:
    """Take each entry of each parameter as a unit."""
    shape = tuple(parameter.shape)
    return Units(name, shape, counted(*shape))


@of_buffers
def layer(name: str, parameter: Tensor, module: nn.Module) -> Units:
    """Take all the parameters of one module, weight and bias alike, as a unit."""
    path = layer_of(name)
    return Units(path, (1,), torch.zeros([1] * parameter.ndim, dtype=torch.int32))


@OfModel
def kernel(model: nn.Module) -> Reducer:
    """Take each spatial slice `weight[i, j]` of a convolution, the paper's "filter", as a unit.

    Biases and other layers are left out (Xie et al. 2021, footnote 2).
    """
    layouts = by_parameter(model)

    def of_parameter(name: str, parameter: Tensor, module: nn.Module) -> Answer:
        layout = layouts.get(name)
        if layout is None or not isinstance(layout.module, CONVOLUTIONS) or parameter.ndim < 3:
            return None
        if layout.output is None or layout.input is None:  # the lengths of weight norm
            return None
        shape = tuple(parameter.shape[:2])
        return Units(layout.plain, shape, counted(*shape, *[1] * (parameter.ndim - 2)))

    return of_parameter


@OfModel
def output_channel(model: nn.Module) -> Reducer:
    """Take the weights of one output channel (or neuron of a linear layer) as a unit.

    Biases and parameters of fewer than two dimensions are left out. A tied weight is laid out as in
    the first of its modules. The outputs of an embedding are the dimensions of its vectors. In a
    stack of experts, the position is `(expert, channel)`.
    """
    return _channels(model, "output")


@OfModel
def input_channel(model: nn.Module) -> Reducer:
    """Take the weights of one input channel (or feature of a linear layer) as a unit.

    Biases and parameters of fewer than two dimensions are left out. A tied weight is laid out as in
    the first of its modules. In a stack of experts, the position is `(expert, channel)`.
    """
    return _channels(model, "input")


@OfModel
def embedding_row(model: nn.Module) -> Reducer:
    """Take each row of an embedding, the vector of one token, as a unit.

    The group is the parameter and the position is `(row,)`. A weight that is tied to an embedding
    counts as one.
    """
    places = owners(model)

    def of_parameter(name: str, parameter: Tensor, module: nn.Module) -> Answer:
        held = [owner.module for owner in places[name]]
        if parameter.ndim != 2 or not any(
            isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in held
        ):
            return None
        rows = len(parameter)
        return Units(name, (rows,), along(counted(rows), 0, 2))

    return of_parameter


@OfModel
def rank_component(model: nn.Module) -> Reducer:
    """Take each rank of PEFT's LoRA layers: its row of `A` (r, in) and its column of `B` (out, r).

    The group is the path of the wrapped module; the adapter's name follows if the module has
    several. The position is `(rank,)`.
    """
    answers: dict[str, Answer] = {}
    parameters = [(name, p) for name, p in model.named_parameters() if p.ndim > 1]
    matches = [(p, match) for name, p in parameters if (match := _LORA.fullmatch(name))]
    adapters: dict[str, set[str]] = defaultdict(set)
    for _, match in matches:
        adapters[match["path"]].add(match["adapter"])
    for parameter, match in matches:
        dimension = 0 if match["side"] == "A" else 1
        rank = int(parameter.shape[dimension])
        group = match["path"]
        if len(adapters[group]) > 1:
            group = f"{group}.{match['adapter']}"
        labels = along(torch.arange(rank), dimension, parameter.ndim)
        answers[match.string] = Units(group, (rank,), labels)
    return looked_up(answers)


@OfModel
def expert(model: nn.Module) -> Reducer:
    """Take all the parameters of one expert of a mixture as a unit.

    The group is the path of the experts and the position is `(expert,)`. The router and shared
    experts belong to no unit.
    """
    answers: dict[str, Answer] = {}
    paths = {name: places[0].path for name, places in owners(model).items()}
    for path, module in model.named_modules():
        held = {n: p for n, p in model.named_parameters() if _within(paths.get(n, n), path)}
        if is_stack(module):
            count = stack_size(module)
            group = _together(model, path)
            for name, parameter in held.items():
                if parameter.ndim and parameter.shape[0] == count and paths[name] == path:
                    labels = along(torch.arange(count), 0, parameter.ndim)
                    answers[name] = Units(group, (count,), labels)
                elif parameter.ndim > 1:
                    answers[name] = UNKNOWN
        elif path.rpartition(".")[2] == "experts" and isinstance(
            module, nn.ModuleList | nn.ModuleDict
        ):
            numbers = {key: number for number, (key, _) in enumerate(module.named_children())}
            for name, parameter in held.items():
                number = numbers[paths[name].removeprefix(f"{path}.").split(".")[0]]
                labels = torch.full([1] * parameter.ndim, number, dtype=torch.int32)
                answers[name] = Units(path, (len(numbers),), labels)
    return looked_up(answers)


REDUCERS: dict[str, Reducer] = {
    "scalar": scalar,
    "kernel": kernel,
    "output_channel": output_channel,
    "input_channel": input_channel,
    "channel": channel,
    "layer": layer,
    "attention_head": attention_head,
    "neuron": neuron,
    "rank_component": rank_component,
    "embedding_row": embedding_row,
    "expert": expert,
}


def get_reducer(reducer: str | Reducer) -> Reducer:
    """Look up a reducer by name; a callable, or an object with `for_model`, is returned unchanged.

    Raises:
        UnitError: for an unknown name.
    """
    if not isinstance(reducer, str) and (callable(reducer) or hasattr(reducer, "for_model")):
        return reducer
    if not isinstance(reducer, str) or reducer not in REDUCERS:
        raise UnitError(
            f"reducer {reducer!r} is not known{_guess(reducer)}: expected one of "
            f"{', '.join(REDUCERS)}, or a callable of (name, parameter, module) that returns "
            "paramattr.units.reducers.Units"
        )
    return REDUCERS[reducer]


def _guess(written: object) -> str:
    """Ask whether a name near what was written is meant: "head" for "attention_head"."""
    if not isinstance(written, str):
        return ""
    meant = {name: [name] for name in REDUCERS}
    for name in REDUCERS:
        for word in name.split("_"):
            if word not in REDUCERS:
                meant.setdefault(word, []).append(name)
    near = get_close_matches(written.lower(), meant, n=1, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, meant[near[0]]))}?" if near else ""


def only(reducer: str | Reducer, layers: Iterable[str]) -> Reducer:
    """Restrict a reducer to the parameters of some layers.

    A name that matches no layer is ignored. If none matches, there is no unit to score and
    `UnitIndex.of` raises.

    Args:
        reducer: a name or a callable.
        layers: names of layers, as `layer_of` gives them.

    Returns:
        A reducer that leaves out the parameters of all other layers.

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

    @property
    def of_buffers(self) -> bool:
        return getattr(self.reducer, "of_buffers", False) is True

    def for_model(self, model: nn.Module) -> Reducer:
        return _Only(asked_of(self.reducer, model), self.layers)

    def __call__(self, name: str, parameter: Tensor, module: nn.Module) -> Answer:
        return self.reducer(name, parameter, module) if layer_of(name) in self.layers else None

    def __repr__(self) -> str:
        inner = getattr(self.reducer, "__name__", repr(self.reducer))
        return f"only({inner}, {sorted(self.layers)})"


def _channels(model: nn.Module, side: str) -> Reducer:
    layouts = by_parameter(model)

    def of_parameter(name: str, parameter: Tensor, module: nn.Module) -> Answer:
        if parameter.ndim < 2:
            return None
        layout = layouts.get(name)
        if layout is None:
            return UNKNOWN
        if layout.experts and parameter.ndim == 2:  # their biases
            return None
        channels = layout.labels(side)
        if channels is None:  # weight norm's lengths belong to one side alone
            return UNKNOWN if isinstance(layout.module, nn.Bilinear) else None
        return Units(layout.plain, *channels)

    return of_parameter


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.") or not outer


def _together(model: nn.Module, path: str) -> str:
    # Sibling stacks, such as an input and an output layer, form one set of experts.
    parent = path.rpartition(".")[0]
    siblings = [m for m in model.get_submodule(parent).children() if is_stack(m)]
    return parent if len(siblings) > 1 else path

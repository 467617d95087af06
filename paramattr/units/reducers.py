"""Reducers: which entries of a parameter form a unit and share one score.

A reducer is any callable of `(name, parameter, module)`. It is called once per parameter, with the
full name, the values and the module that holds it. It returns `Units`, None to leave the parameter
out, or `UNKNOWN` to leave it out with a warning. For units that span modules, it may have
`for_model(model)`, which is called once with the whole model and returns such a callable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor, nn

from paramattr.errors import UnitError
from paramattr.units.channels import (
    channel,
    embedding_row,
    input_channel,
    kernel,
    layer,
    output_channel,
    scalar,
)
from paramattr.units.experts import expert
from paramattr.units.grid import UNKNOWN as UNKNOWN
from paramattr.units.grid import Answer, asked_of
from paramattr.units.grid import Reducer as Reducer
from paramattr.units.grid import Units as Units
from paramattr.units.grid import layer_of as layer_of
from paramattr.units.heads import attention_head
from paramattr.units.neurons import neuron
from paramattr.units.ranks import rank_component

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

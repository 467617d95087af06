"""Tables of scores: each sample's, by each rule, so that any mean of them needs no new gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr import FAIG, UnitIndex
from paramattr.files.reading import load_tensors, save_state_dict
from paramattr.quadrature import Rule, drawn, gauss_legendre

RICHARDSON = Rule("richardson", (0.25, 0.5, 0.75), (2 / 3, -1 / 3, 2 / 3), 3)
"""One and two middles, extrapolated: (4 M_2 - M_1) / 3."""


@dataclass(frozen=True)
class Way:
    """A rule and what it takes.

    Attributes:
        nodes: gradients per sample.
        rule: place of a sample to its rule.
        is_drawn: whether the rule depends on the place.
    """

    nodes: int
    rule: Callable[[int], Rule]
    is_drawn: bool = False


def _gauss(nodes: int, place: int) -> Rule:
    return gauss_legendre(nodes)


WAYS = {
    "middle": Way(1, partial(_gauss, 1)),
    **{f"gauss {n}": Way(n, partial(_gauss, n)) for n in (2, 3, 4, 5, 6, 8)},
    "drawn 1": Way(1, partial(drawn, 1), True),
    "drawn 2": Way(2, partial(drawn, 2), True),
    "richardson 3": Way(3, lambda place: RICHARDSON),
}
"""Names of rules. A drawn one has other nodes for each sample, the others the same for all."""
FINEST = "gauss 8"
"""What the population's ranking is made by."""


@dataclass(frozen=True)
class Samples:
    """Two models and data that tell two functions.

    Attributes:
        faig: the two models.
        reducer: the units.
        loaders: condition to batches of one sample.
    """

    faig: FAIG
    reducer: str
    loaders: Mapping[str, Sequence[Any]]

    @property
    def index(self) -> UnitIndex:
        """The units."""
        return UnitIndex.of(self.faig.model, self.reducer)


def score_table(
    samples: Samples, way: str, condition: str, scratch: Path | None
) -> Float[Tensor, "samples units"]:
    """Score each sample alone, or read what an earlier run scored.

    Args:
        samples: models and data.
        way: of `WAYS`.
        condition: of the samples.
        scratch: folder that keeps tables; None keeps none.
    """
    file = scratch and scratch / f"{way} {condition}.safetensors".replace(" ", "_")
    if file and file.exists():
        return load_tensors(file)[0]["scores"]
    index, rows = samples.index, list[Tensor]()

    def kept(attributions: dict[str, Tensor]) -> dict[str, Tensor]:
        rows.append(index.reduce({name: v.abs() for name, v in attributions.items()}).float())
        return attributions

    several = WAYS[way].is_drawn
    data = samples.loaders[condition]
    for place, loader in enumerate([[one] for one in data] if several else [data]):
        rule = WAYS[way].rule(place)
        samples.faig.score(loader, reducer=samples.reducer, method=rule, function=kept)
    table = torch.stack(rows)
    if file:
        save_state_dict(file, {"scores": table})
    return table

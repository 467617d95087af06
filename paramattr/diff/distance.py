"""How far two models are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paramattr.diff.material import Material
from paramattr.parameters import align, named_parameters


@dataclass(frozen=True)
class Distance:
    """How far two models are apart.

    Attributes:
        relative: the Euclidean length of the change over that of the baseline's parameters.
        cosine: between the two models' parameters.
        parameters: how many there are.
        changed: how many differ.
    """

    relative: float
    cosine: float
    parameters: int
    changed: int


def distance_of(material: Material) -> Distance:
    """Measure how far the two models are apart."""
    own, other = named_parameters(material.target), align(material.target, material.baseline)
    squares = torch.zeros(4, dtype=torch.float64)
    changed = 0
    for name, value in own.items():
        here, there = value.double().cpu(), other[name].double().cpu()
        squares += torch.stack(
            [((here - there) ** 2).sum(), (there**2).sum(), (here**2).sum(), (here * there).sum()]
        )
        changed += int((here != there).sum())
    apart, base, tuned, product = squares.tolist()
    return Distance(
        (apart / base) ** 0.5 if base else float("inf"),
        product / (base * tuned) ** 0.5 if base and tuned else float("nan"),
        sum(value.numel() for value in own.values()),
        changed,
    )

"""Inputs whose degradation has a severity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.data.degradations import CONDITIONS, Degradation, degrade
from blind_sr.data.photographs import Photographs
from blind_sr.labels import SEVERITIES
from paramattr.errors import ParamattrError


@dataclass(frozen=True)
class Range:
    """From where to where a severity goes.

    Attributes:
        field: of `Degradation` that it sets.
        low: the least.
        high: the most.
        step: its numbers are multiples of this; 0 for any number.
    """

    field: str
    low: float
    high: float
    step: int = 0

    def degradation(self, severity: float) -> Degradation:
        """Give the degradation of a severity."""
        fields: dict[str, Any] = {self.field: self.rounded(severity)}
        return Degradation(**fields)

    def rounded(self, severity: float) -> float:
        """Give the nearest severity that there is."""
        return self.step * round(severity / self.step) if self.step else float(severity)

    def levels(self, count: int) -> list[float]:
        """Space some severities evenly, both ends included."""
        return [self.rounded(one) for one in np.linspace(self.low, self.high, count)]


RANGES = {
    "blur": Range("blur", 0.5, 4.0),
    "noise": Range("noise", 0.0, 0.3),
    "jpeg": Range("quality", 5, 95, step=1),
}
"""Degradation to its severities."""


def trained_on(kind: str) -> float:
    """Give the one severity that the networks are trained on."""
    return float(getattr(CONDITIONS[kind], RANGES[kind].field))


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse degradations without a severity, and fewer than two of them.

    Raises:
        ParamattrError: with the reason.
    """
    unknown = [kind for kind in kinds if kind not in SEVERITIES]
    if unknown or len(kinds) < 2 or len(set(kinds)) < len(kinds):
        raise ParamattrError(
            f"degradations are {', '.join(kinds) or 'none'}: expected at least two of "
            f"{', '.join(SEVERITIES)}, each once"
        )


@dataclass(frozen=True)
class Drawn:
    """Photographs degraded in one way, each input at a severity of its own.

    Attributes:
        kind: of degradation.
        photographs: the originals, with the inputs under `kind`; each as often as it was drawn.
        severities: one per input.
    """

    kind: str
    photographs: Photographs
    severities: Float[Tensor, "photographs"]

    @classmethod
    def of(cls, photographs: Photographs, kind: str, seed: int, draws: int = 1) -> Drawn:
        """Draw severities uniformly, some per photograph, and degrade each input by its own."""
        names, high = photographs.names * draws, photographs.high * draws
        place = list(RANGES).index(kind)
        own, draw = RANGES[kind], np.random.default_rng((seed, place))
        severities = [own.rounded(draw.uniform(own.low, own.high)) for _ in names]
        inputs = []
        for number, (truth, severity) in enumerate(zip(high, severities, strict=True)):
            noise = torch.Generator().manual_seed(1_000_003 * seed + number)
            low = degrade(truth.float().cpu(), own.degradation(severity), noise)
            inputs.append(low.to(truth))
        degraded = Photographs(names, high, {kind: inputs})
        return cls(kind, degraded, torch.tensor(severities, dtype=torch.float64))

"""What each input of a known severity gives: overlap scores, and what the networks restore."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.data.measures import psnr
from blind_sr.models.pairs import Pair
from blind_sr.run import Advance, unseen
from blind_sr.severity.inputs import Drawn
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished
from paramattr.prediction import OverlapRegressor


@dataclass(frozen=True)
class Measured:
    """What the inputs of one degradation gave.

    Attributes:
        kind: of degradation.
        names: the photograph of each.
        severities: of each.
        overlaps: condition to one number per input.
        baseline: PSNR in dB of the baseline's output, per input.
        target: PSNR in dB of the target's output, per input.
    """

    kind: str
    names: list[str]
    severities: Float[Tensor, "inputs"]
    overlaps: dict[str, Float[Tensor, "inputs"]]
    baseline: Float[Tensor, "inputs"]
    target: Float[Tensor, "inputs"]

    @property
    def gain(self) -> Float[Tensor, "inputs"]:
        """What fine-tuning gains on each input, in dB."""
        return self.target - self.baseline


def measure(
    regressor: OverlapRegressor,
    pair: Pair,
    drawn: Drawn,
    kept: Unfinished,
    *,
    advance: Advance = unseen,
) -> Measured:
    """Rank the filters for each input and compare them with those found (Eq. 8).

    Args:
        regressor: with a `ranking.ranker`.
        pair: baseline and target, whose outputs are compared with the photographs.
        drawn: the inputs.
        kept: notes what each input gave, so that none is ranked twice.
        advance: called with 1 after each input.
    """
    rows = []
    photographs = drawn.photographs
    for low, high in photographs.pairs(drawn.kind):
        key = fingerprint([{"input": low}, {"truth": high}])
        if key not in kept.notes:
            scores = regressor.scores([(low, high)])
            with torch.inference_mode():
                quality = [float(psnr(m(low), high)) for m in (pair.baseline, pair.target)]
            own = {name: float(values[0]) for name, values in scores.items()}
            kept.notes[key] = {"overlaps": own, "psnr": quality}
            kept.save({}, kept.notes)
        rows.append(kept.notes[key])
        advance(1)
    baseline, target = torch.tensor([row["psnr"] for row in rows], dtype=torch.float64).T
    overlaps = {
        name: torch.tensor([row["overlaps"][name] for row in rows], dtype=torch.float64)
        for name in regressor.found
    }
    return Measured(drawn.kind, photographs.names, drawn.severities, overlaps, baseline, target)

"""How far the filters that serve an input are those of a function (Eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.data.degradations import CONDITIONS
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.run import Advance, unseen
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished
from paramattr.prediction import OverlapClassifier

PREDICTED = ("blur", "noise", "both", "none")


@dataclass(frozen=True)
class Measured:
    """Overlap scores of many inputs.

    Attributes:
        names: the photograph of each input.
        kinds: what was done to each: `"blur"`, `"noise"`, `"clean"` or `"both"`.
        overlaps: condition to one number per input.
    """

    names: list[str]
    kinds: list[str]
    overlaps: dict[str, Float[Tensor, "inputs"]]

    def labels(self) -> list[tuple[str, ...]]:
        """Name the degradations of each input."""
        return [tuple(m for m in MASKS if getattr(CONDITIONS[k], m)) for k in self.kinds]

    def of_kind(self, kind: str) -> list[int]:
        """Number the inputs of a kind."""
        return [number for number, own in enumerate(self.kinds) if own == kind]


def measure(
    classifier: OverlapClassifier,
    photographs: Photographs,
    kinds: Sequence[str],
    kept: Unfinished,
    *,
    advance: Advance = unseen,
) -> Measured:
    """Rank the filters for each input and compare them with those found (Eq. 8).

    Args:
        classifier: with a `ranking.ranker`.
        photographs: of `photographs.with_both`.
        kinds: which of their inputs.
        kept: notes the scores of each input, so that none is ranked twice.
        advance: called with 1 after each input.
    """
    names, rows = [], []
    for number, name in enumerate(photographs.names):
        for kind in kinds:
            sample = (photographs.low[kind][number], photographs.high[number])
            key = fingerprint([{"input": sample[0]}, {"truth": sample[1]}])
            if key not in kept.notes:
                scores = classifier.scores([sample])
                kept.notes[key] = {mask: float(values[0]) for mask, values in scores.items()}
                kept.save({}, kept.notes)
            rows.append(kept.notes[key])
            names.append(name)
            advance(1)
    values = {c: torch.tensor([row[c] for row in rows], dtype=torch.float64) for c in MASKS}
    return Measured(names, list(kinds) * len(photographs.names), values)


def repeated(tested: Photographs, *others: Photographs) -> int:
    """Count the photographs under test that are among the others too."""
    known = {fingerprint([{"": image}]) for other in others for image in other.high}
    return sum(fingerprint([{"": image}]) in known for image in tested.high)

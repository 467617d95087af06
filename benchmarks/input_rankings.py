"""Rankings of each input, filters found for each class, and how far they overlap (Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.input_scores import InputScores, Table
from benchmarks.prediction_variants import OWN, Variant
from blind_sr.labels import MASKS
from blind_sr.predict.overlaps import Measured
from paramattr import Scores, Selection, UnitIndex, contrast
from paramattr.units.selection import how_many


class InputRankings:
    """The inputs' scores, ranked as variants say.

    Args:
        scores: of each input.
        find: folder of the photographs that filters are found on.
    """

    def __init__(self, scores: InputScores, find: Path) -> None:
        self._scores, self._find = scores, find
        self.index = UnitIndex.of(scores.pair.target, "kernel")
        self._ranked: dict[tuple[Any, ...], Int[Tensor, "inputs places"]] = {}
        self._means: dict[tuple[Any, ...], Float[Tensor, "filters"]] = {}

    def found(
        self, variant: Variant, others: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Selection]:
        """Find the filters of each class.

        Args:
            variant: the way.
            others: class to the conditions whose mean is subtracted from its own.
        """
        weight = "share" if variant.shares else 1.0
        found = {}
        for one, subtracted in others.items():
            own, *rest = (Scores(self.index, self._mean(variant, c)) for c in (one, *subtracted))
            scores = contrast(own, *rest, weight=weight)
            found[one] = scores.top(fraction=variant.pct / 100)
        return found

    def overlaps(
        self, variant: Variant, found: Mapping[str, Selection], folder: Path, kind: str
    ) -> Float[Tensor, "inputs classes"]:
        """Give each input's overlap with the filters of each class (Eq. 8)."""
        ranked = self._ranking(variant, folder, kind)[:, : self._count(variant.own)]
        return torch.stack([own.chosen[ranked].double().mean(1) for own in found.values()], 1)

    def measured(
        self, variant: Variant, found: Mapping[str, Selection], folder: Path, kinds: Sequence[str]
    ) -> Measured:
        """Give the overlaps of the inputs of several kinds."""
        each = [self.overlaps(variant, found, folder, kind) for kind in kinds]
        labels = [kind for kind, own in zip(kinds, each, strict=True) for _ in own]
        return Measured([], labels, dict(zip(MASKS, torch.cat(each).T, strict=True)))

    def agreement(
        self, variant: Variant, folder: Path, kind: str, other: str
    ) -> Float[Tensor, "inputs"]:
        """Give the overlap of each input's filters with those of its photograph, of other kind."""
        count = self._count(variant.own)
        one, two = (self._ranking(variant, folder, k)[:, :count] for k in (kind, other))
        return torch.stack(
            [torch.isin(a, b).double().mean() for a, b in zip(one, two, strict=True)]
        )

    def _ranking(self, variant: Variant, folder: Path, kind: str) -> Int[Tensor, "inputs places"]:
        key = (variant.reference, variant.score, variant.general, folder, kind)
        if key not in self._ranked:
            table = self._table(variant.reference, variant.score, folder, kind)
            if variant.general:
                clean = self._table(variant.reference, variant.score, self._find, "clean")
                table = _shares(table) - _shares(clean).mean(0)
            self._ranked[key] = table.topk(self._count(max(OWN))).indices
        return self._ranked[key]

    def _mean(self, variant: Variant, kind: str) -> Float[Tensor, "filters"]:
        key = (variant.found_by, variant.score, kind)
        if key not in self._means:
            table = self._table(variant.found_by, variant.score, self._find, kind)
            self._means[key] = table.double().mean(0)
        return self._means[key]

    def _table(self, reference: str, score: str, folder: Path, kind: str) -> Table:
        table = self._scores.table(reference, folder, kind, signed=score != "magnitudes")
        return {"magnitudes": table, "sums": table.abs(), "falls": -table}[score]

    def _count(self, pct: float) -> int:
        return how_many(len(self.index), fraction=pct / 100)


def _shares(table: Table) -> Table:
    return table / table.sum(1, keepdim=True)

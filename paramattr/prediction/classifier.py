"""Prediction of the functions that a sample calls for, from the units that serve it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paramattr.checkpoints import taken_apart
from paramattr.errors import DataError, ParamattrError, UnitError
from paramattr.prediction.overlaps import (
    Rank,
    check_found,
    checked_overlaps,
    load_found,
    overlap_scores,
    save_found,
)
from paramattr.units.selection import Selection

KIND = "overlap classifier"
Label = str | Iterable[str]
"""A sample's conditions: one name, several names, or none (an empty tuple)."""


class OverlapClassifier:
    """Predict a sample's conditions from the overlap of its top units with each condition's.

        OS(x, D) = |units_D ∩ units_x| / |units_x|

    A sample is in condition D if its overlap score is at least D's threshold. The sample's top
    units are as many as the condition's units. Conditions are independent: a sample may be in
    several, or in none.

    Args:
        found: condition to its units, such as `contrast(blur, noise).top(fraction=0.01)`.
        rank: a function from a sample to its scores: `lambda sample: faig.score([sample], ...)`.
            Without it, the samples that you pass to the methods are `Scores` themselves.
        thresholds: condition to a number from 0 to 1; `fit` finds them.
        notes: anything else that `save` should write to the file, serialisable as JSON, such as
            the models that the units belong to.

    Attributes:
        thresholds: condition to its threshold; empty before `fit`.
        notes: as passed, or as `load` read them.

    Raises:
        UnitError: if there is no condition, a condition is empty or not named by a string, the
            conditions have different units, or a threshold does not fit.

    Source: Xie et al. 2021, Sec. 4.3 and Eq. 8.

    >>> from paramattr import Scores, UnitIndex
    >>> index = UnitIndex.of(torch.nn.Linear(2, 2, bias=False), "scalar")
    >>> found = {"blur": Scores(index, torch.tensor([9.0, 8.0, 0.0, 0.0])).top(count=2)}
    >>> blurry = Scores(index, torch.tensor([3.0, 1.0, 2.0, 0.0]))  # top two: units 0 and 2
    >>> sharp = Scores(index, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    >>> classifier = OverlapClassifier(found).fit([blurry, sharp], ["blur", ()])
    >>> classifier.scores([blurry, sharp])["blur"].tolist(), classifier.thresholds
    ([0.5, 0.0], {'blur': 0.25})
    """

    def __init__(
        self,
        found: Mapping[str, Selection],
        rank: Rank | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        check_found(found, "classifying")
        self.found, self.rank = dict(found), rank
        self.thresholds, self.notes = dict(thresholds or {}), dict(notes or {})
        self._check_thresholds()

    def scores(self, samples: Iterable[Any]) -> dict[str, Float[Tensor, "samples"]]:
        """Return every sample's overlap score with every condition (Eq. 8).

        Args:
            samples: arguments of `rank`, or `Scores`; they are ranked one at a time.

        Returns:
            Condition to numbers from 0 to 1, one per sample.

        Raises:
            DataError: if there is no sample, or a sample cannot be ranked.
        """
        return overlap_scores(self.found, self.rank, samples)

    def fit(self, samples: Iterable[Any], labels: Sequence[Label]) -> OverlapClassifier:
        """Find for each condition the threshold that classifies the samples best.

        If several do equally well, it is the middle of the widest gap.

        Args:
            samples: as in `scores`.
            labels: the conditions of each sample; an empty tuple for none.

        Returns:
            The classifier itself.

        Raises:
            DataError: if a label is not a condition, the numbers of labels and samples differ, or
                all or none of the samples are in a condition.
        """
        return self.fit_scores(self.scores(samples), labels)

    def fit_scores(
        self, scores: Mapping[str, Float[Tensor, "samples"]], labels: Sequence[Label]
    ) -> OverlapClassifier:
        """Do what `fit` does, on overlap scores that `scores` returned."""
        sets, thresholds = self._sets(labels), {}
        for condition, values in checked_overlaps(self.found, scores).items():
            if len(values) != len(sets):
                raise DataError(
                    f"there are {len(values)} samples and {len(sets)} labels: expected as many"
                )
            inside = torch.tensor([condition in conditions for conditions in sets])
            if inside.all() or not inside.any():
                raise DataError(
                    f"{'all' if inside.all() else 'none'} of the samples are labelled "
                    f"{condition!r}: expected some with it and some without"
                )
            thresholds[condition] = _best_threshold(values, inside)
        self.thresholds = thresholds
        return self

    def predict(self, samples: Iterable[Any]) -> list[frozenset[str]]:
        """Predict the conditions of each sample.

        Args:
            samples: as in `scores`.

        Returns:
            A set of conditions per sample; empty if no overlap reaches its threshold.

        Raises:
            ParamattrError: if there are no thresholds yet.
            DataError: as `scores`.
        """
        self._check_fitted()  # before the ranking, which is slow
        return self.predict_scores(self.scores(samples))

    def predict_scores(
        self, scores: Mapping[str, Float[Tensor, "samples"]]
    ) -> list[frozenset[str]]:
        """Do what `predict` does, on overlap scores that `scores` returned."""
        self._check_fitted()
        inside = {
            c: values >= self.thresholds[c]
            for c, values in checked_overlaps(self.found, scores).items()
        }
        size = len(next(iter(inside.values())))
        return [frozenset(c for c in self.found if inside[c][k]) for k in range(size)]

    def save(self, path: str | Path) -> None:
        """Write the conditions' units, the thresholds and the notes to a safetensors file."""
        description = {"thresholds": self.thresholds, "notes": self.notes}
        save_found(path, KIND, self.found, description)

    @classmethod
    def load(cls, path: str | Path, rank: Rank | None = None) -> OverlapClassifier:
        """Read a classifier that `save` wrote.

        Args:
            path: the file.
            rank: as in the constructor; functions are not saved.

        Raises:
            CheckpointError: if the file is missing or broken, or holds no classifier.
        """
        found, rest = load_found(path, KIND, "OverlapClassifier.save", "thresholds", "notes")
        with taken_apart(path, "an overlap classifier"):
            return cls(found, rank, **rest)

    def _sets(self, labels: Sequence[Label]) -> list[frozenset[str]]:
        sets = [frozenset((label,) if isinstance(label, str) else label) for label in labels]
        for number, conditions in enumerate(sets):
            for condition in conditions - self.found.keys():
                raise DataError(
                    f"label {condition!r} of sample {number} is not a condition: expected "
                    f"{', '.join(map(repr, self.found))}, several of them, or () for none"
                )
        return sets

    def _check_thresholds(self) -> None:
        for condition, threshold in self.thresholds.items():
            number = isinstance(threshold, Real) and 0 <= threshold <= 1
            if condition not in self.found or not number:
                raise UnitError(
                    f"threshold {threshold!r} of {condition!r} does not fit: expected a number "
                    f"from 0 to 1 for {', '.join(map(repr, self.found))}"
                )

    def _check_fitted(self) -> None:
        missing = [condition for condition in self.found if condition not in self.thresholds]
        if missing:
            raise ParamattrError(
                f"condition {missing[0]!r} has no threshold: call fit first, or pass thresholds"
            )


def _best_threshold(values: Float[Tensor, "samples"], inside: Bool[Tensor, "samples"]) -> float:
    levels = values.unique()
    edges = torch.cat([levels.new_tensor([0.0]), levels, levels.new_tensor([1.0])])
    middles = (edges[1:] + edges[:-1]) / 2  # between two levels, below all, above all
    right = ((values[:, None] >= middles) == inside[:, None]).sum(0)
    best = (right == right.max()).nonzero().flatten()
    widths = (edges[1:] - edges[:-1])[best]
    return float(middles[best[widths.argmax()]])

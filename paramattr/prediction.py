"""Prediction of the conditions of a sample, and of their severity, from the units that serve them.

Both read the overlap of the sample's top units with each condition's (Eq. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paramattr.errors import DataError, ParamattrError, UnitError, an
from paramattr.files.reading import load_kind, save_state_dict, taken_apart
from paramattr.units.index import UnitIndex, check_same_units
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection

CLASSIFIER, REGRESSOR = "overlap classifier", "overlap regressor"
"""Kinds of files."""
DEGREE = 2
"""Highest power of an overlap score that the regressor takes, unless you say otherwise."""

Label = str | Iterable[str]
"""A sample's conditions: one name, several names, or none (an empty tuple)."""
Rank = Callable[[Any], Scores]
"""A function from a sample to its scores."""


class OverlapClassifier:
    """Predict a sample's conditions from the overlap of its top units with each condition's.

        OS(x, D) = |units_D ∩ units_x| / |units_x|

    where the sample's top units are as many as the condition's. A sample is in condition D if its
    overlap score is at least D's threshold. Conditions are independent: a sample may be in several,
    or in none.

    Args:
        found: condition to its units, such as `contrast(blur, noise).top(fraction=0.01)`.
        rank: function from a sample to its scores: `lambda sample: faig.score([sample], ...)`.
            Without it, the samples that you pass to the methods are `Scores` themselves.
        thresholds: condition to a number from 0 to 1; `fit` finds them.
        notes: notes that `save` should write to the file, serialisable as JSON, such as the models
            that the units belong to.

    Attributes:
        thresholds: condition to its threshold; empty before `fit`.
        notes: notes that were passed, or that `load` read.

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
        _check_found(found, "classifying")
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
        return _overlap_scores(self.found, self.rank, samples)

    def fit(self, samples: Iterable[Any], labels: Sequence[Label]) -> OverlapClassifier:
        """Find for each condition the threshold that classifies the samples best.

        If several do equally well, it is the middle of the widest gap.

        Args:
            samples: arguments of `rank`, or `Scores`.
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
        for condition, values in _checked_overlaps(self.found, scores).items():
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
            samples: arguments of `rank`, or `Scores`.

        Returns:
            A set of conditions per sample; empty if no overlap reaches its threshold.

        Raises:
            ParamattrError: if there are no thresholds yet.
            DataError: if there is no sample, or a sample cannot be ranked.
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
            for c, values in _checked_overlaps(self.found, scores).items()
        }
        size = len(next(iter(inside.values())))
        return [frozenset(c for c in self.found if inside[c][k]) for k in range(size)]

    def save(self, path: str | Path) -> None:
        """Write the conditions' units, the thresholds and the notes to a safetensors file."""
        description = {"thresholds": self.thresholds, "notes": self.notes}
        _save_found(path, CLASSIFIER, self.found, description)

    @classmethod
    def load(cls, path: str | Path, rank: Rank | None = None) -> OverlapClassifier:
        """Read a classifier that `save` wrote.

        Args:
            path: path of the file.
            rank: function from a sample to its scores; functions are not saved.

        Raises:
            CheckpointError: if the file is missing or broken, or holds no classifier.
        """
        found, about = _load_found(path, CLASSIFIER, "OverlapClassifier.save")
        with taken_apart(path, "an overlap classifier"):
            return cls(found, rank, thresholds=about["thresholds"], notes=about["notes"])

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


@dataclass(frozen=True)
class Line:
    """The polynomial that predicts one severity.

    Attributes:
        coefficients: the constant, then of each condition the powers from 1 on.
        lowest: lowest of the severities that it was fitted on.
        highest: highest of those.
    """

    coefficients: tuple[float, ...]
    lowest: float
    highest: float


class OverlapRegressor:
    """Predict how severe a sample's conditions are from the overlap scores of its top units.

        s(x) = w_0 + Σ_D Σ_{p = 1}^{degree} w_{D,p} OS(x, D)^p

    with weights by least squares, and OS as in `OverlapClassifier`. A prediction is kept within the
    severities that were fitted on. Several severities may be predicted from the same overlaps: of
    blur and of noise, from the units of both.

    Args:
        found: condition to its units, as in `OverlapClassifier`.
        rank: function from a sample to its scores, as there.
        degree: degree of the polynomial, at least 1.
        lines: severity to its line; `fit` finds them.
        notes: notes that `save` should write, serialisable as JSON.

    Attributes:
        lines: severity to its line; empty before `fit`.
        notes: notes that were passed, or that `load` read.

    Raises:
        UnitError: if there is no condition, a condition is empty or not named by a string, or the
            conditions have different units.
        ParamattrError: for a degree that is no number of powers, or lines of another degree.

    Source: Xie et al. 2021, Eq. 8, for the overlap score; the regression is this project's.

    >>> from paramattr import Scores, UnitIndex
    >>> index = UnitIndex.of(torch.nn.Linear(2, 2, bias=False), "scalar")
    >>> found = {"blur": Scores(index, torch.tensor([9.0, 8.0, 0.0, 0.0])).top(count=2)}
    >>> strong = Scores(index, torch.tensor([3.0, 2.0, 1.0, 0.0]))
    >>> weak = Scores(index, torch.tensor([3.0, 1.0, 2.0, 0.0]))
    >>> none = Scores(index, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    >>> regressor = OverlapRegressor(found, degree=1)
    >>> regressor = regressor.fit([strong, none], {"sigma": [4.0, 0.0]})
    >>> round(float(regressor.predict([weak])["sigma"]), 6)
    2.0
    """

    def __init__(
        self,
        found: Mapping[str, Selection],
        rank: Rank | None = None,
        *,
        degree: int = DEGREE,
        lines: Mapping[str, Line] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        _check_found(found, "predicting the severity of")
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise ParamattrError(f"degree is {degree!r}: expected a whole number from 1 on")
        self.found, self.rank, self.degree = dict(found), rank, degree
        self.lines, self.notes = dict(lines or {}), dict(notes or {})
        for severity, line in self.lines.items():
            if len(line.coefficients) != self._size:
                raise ParamattrError(
                    f"severity {severity!r} has {len(line.coefficients)} coefficients: expected "
                    f"{self._size}, for {len(self.found)} conditions and the degree {degree}"
                )

    def scores(self, samples: Iterable[Any]) -> dict[str, Float[Tensor, "samples"]]:
        """Return every sample's overlap score with every condition (Eq. 8).

        Args:
            samples: arguments of `rank`, or `Scores`; they are ranked one at a time.

        Returns:
            Condition to numbers from 0 to 1, one per sample.

        Raises:
            DataError: if there is no sample, or a sample cannot be ranked.
        """
        return _overlap_scores(self.found, self.rank, samples)

    def fit(
        self, samples: Iterable[Any], severities: Mapping[str, Sequence[float]]
    ) -> OverlapRegressor:
        """Find the weights that predict the severities best.

        Args:
            samples: arguments of `rank`, or `Scores`.
            severities: name, such as `"sigma"`, to one finite number per sample.

        Returns:
            The regressor itself.

        Raises:
            DataError: if the numbers of severities and samples differ, there is none, one is not
                finite, or there are fewer samples than weights.
        """
        return self.fit_scores(self.scores(samples), severities)

    def fit_scores(
        self,
        scores: Mapping[str, Float[Tensor, "samples"]],
        severities: Mapping[str, Sequence[float]],
    ) -> OverlapRegressor:
        """Do what `fit` does, on overlap scores that `scores` returned."""
        powers = self._powers(scores)
        if not severities:
            raise DataError("there is no severity: expected a name and one number per sample")
        if len(powers) < self._size:
            raise DataError(
                f"there are {len(powers)} samples for {self._size} weights: expected at least as "
                "many; pass more samples, or a lower degree"
            )
        lines = {}
        for name, numbers in severities.items():
            wanted = torch.as_tensor(numbers, dtype=torch.float64)
            if wanted.shape != (len(powers),) or not torch.isfinite(wanted).all():
                raise DataError(
                    f"severity {name!r} has the shape {tuple(wanted.shape)}: expected one finite "
                    f"number for each of {len(powers)} samples"
                )
            # By the singular values: overlaps that do not vary leave their weights at zero.
            solved = torch.linalg.lstsq(powers, wanted[:, None], driver="gelsd").solution
            ends = float(wanted.min()), float(wanted.max())
            lines[name] = Line(tuple(solved.flatten().tolist()), *ends)
        self.lines = lines
        return self

    def predict(self, samples: Iterable[Any]) -> dict[str, Float[Tensor, "samples"]]:
        """Predict the severities of each sample.

        Args:
            samples: arguments of `rank`, or `Scores`.

        Returns:
            Severity to one number per sample, float64.

        Raises:
            ParamattrError: if nothing was fitted yet.
            DataError: if there is no sample, or a sample cannot be ranked.
        """
        self._check_fitted()  # before the ranking, which is slow
        return self.predict_scores(self.scores(samples))

    def predict_scores(
        self, scores: Mapping[str, Float[Tensor, "samples"]]
    ) -> dict[str, Float[Tensor, "samples"]]:
        """Do what `predict` does, on overlap scores that `scores` returned."""
        self._check_fitted()
        powers = self._powers(scores)
        found = {}
        for name, line in self.lines.items():
            raw = powers @ torch.tensor(line.coefficients, dtype=torch.float64)
            found[name] = raw.clamp(line.lowest, line.highest)
        return found

    def save(self, path: str | Path) -> None:
        """Write the conditions' units, the lines and the notes to a safetensors file."""
        lines = {name: asdict(line) for name, line in self.lines.items()}
        description = {"degree": self.degree, "lines": lines, "notes": self.notes}
        _save_found(path, REGRESSOR, self.found, description)

    @classmethod
    def load(cls, path: str | Path, rank: Rank | None = None) -> OverlapRegressor:
        """Read a regressor that `save` wrote.

        Args:
            path: path of the file.
            rank: function from a sample to its scores; functions are not saved.

        Raises:
            CheckpointError: if the file is missing or broken, or holds no regressor.
        """
        found, about = _load_found(path, REGRESSOR, "OverlapRegressor.save")
        with taken_apart(path, "an overlap regressor"):
            lines = {
                name: Line(tuple(line["coefficients"]), line["lowest"], line["highest"])
                for name, line in about["lines"].items()
            }
            return cls(found, rank, degree=about["degree"], lines=lines, notes=about["notes"])

    @property
    def _size(self) -> int:
        return 1 + self.degree * len(self.found)

    def _powers(self, scores: Mapping[str, Tensor]) -> Float[Tensor, "samples powers"]:
        overlaps = _checked_overlaps(self.found, scores)
        columns = [
            values.double() ** power
            for values in overlaps.values()
            for power in range(1, self.degree + 1)
        ]
        return torch.stack([torch.ones_like(columns[0]), *columns], 1)

    def _check_fitted(self) -> None:
        if not self.lines:
            raise ParamattrError("no severity was fitted: call fit first, or pass lines")


def _check_found(found: Mapping[str, Selection], doing: str) -> None:
    """Refuse conditions without units, or of different units.

    Raises:
        UnitError: naming the first such condition.
    """
    if not found:
        raise UnitError("there is no condition: pass the units of at least one")
    first = next(iter(found.values()))
    for condition, selection in found.items():
        if not isinstance(condition, str):
            raise UnitError(f"condition {condition!r} has no name: expected a string")
        if not isinstance(selection, Selection):
            raise UnitError(
                f"the units of condition {condition!r} are {an(type(selection))}: "
                "expected a Selection, such as scores.top(fraction=0.01)"
            )
        if not len(selection):
            raise UnitError(f"condition {condition!r} has no unit: select at least one")
        check_same_units(first.index, selection.index, f"{doing} {condition!r}")


def _overlap_scores(
    found: Mapping[str, Selection], rank: Rank | None, samples: Iterable[Any]
) -> dict[str, Float[Tensor, "samples"]]:
    """Give every sample's overlap score with every condition, as the methods `scores` do."""
    rows = [_overlaps(found, rank, number, sample) for number, sample in enumerate(samples)]
    if not rows:
        raise DataError("there is no sample: expected at least one")
    values = torch.tensor(rows, dtype=torch.float64)
    return {condition: values[:, place] for place, condition in enumerate(found)}


def _checked_overlaps(
    found: Mapping[str, Selection], scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Read overlap scores that `_overlap_scores` gave, in the conditions' order.

    Raises:
        DataError: unless there are as many numbers for each condition.
    """
    overlaps = {c: torch.as_tensor(scores[c]) for c in found if c in scores}
    shapes = {c: tuple(values.shape) for c, values in overlaps.items()}
    if shapes.keys() != found.keys() or len(set(shapes.values())) > 1:
        raise DataError(
            f"the overlap scores are {shapes or 'none'}: expected as many numbers "
            f"for each of {', '.join(map(repr, found))}, as scores(samples) returns"
        )
    return overlaps


def _save_found(
    path: str | Path, kind: str, found: Mapping[str, Selection], description: Mapping[str, Any]
) -> None:
    """Write the conditions' units and a description to a safetensors file."""
    tensors, metadata = next(iter(found.values())).index.to_tensors()
    chosen = {f"chosen.{name}": selection.chosen for name, selection in found.items()}
    about = {"kind": kind, "conditions": list(found), **description}
    save_state_dict(path, {**tensors, **chosen}, {**about, **metadata})


def _load_found(
    path: str | Path, kind: str, written_by: str
) -> tuple[dict[str, Selection], dict[str, Any]]:
    """Read what `_save_found` wrote: the conditions' units, and the description.

    Raises:
        CheckpointError: if the file is missing or broken, or holds something else.
    """
    tensors, metadata = load_kind(path, kind, f"an {kind}, written by {written_by}")
    with taken_apart(path, f"an {kind}"):
        index = UnitIndex.from_tensors(tensors, metadata)
        found = {c: Selection(index, tensors[f"chosen.{c}"]) for c in metadata["conditions"]}
        return found, metadata


def _overlaps(
    found: Mapping[str, Selection], rank: Rank | None, number: int, sample: Any
) -> list[float]:
    scores = sample if rank is None else rank(sample)
    if not isinstance(scores, Scores):
        raise DataError(
            f"sample {number} is ranked by {an(type(scores))}: expected Scores; pass "
            "rank=lambda sample: faig.score([sample], reducer=...), or Scores as samples"
        )
    if bool((scores.values == scores.values[0]).all()):
        raise DataError(
            f"sample {number} gives every unit the score {float(scores.values[0]):g}: expected "
            "scores that differ, since equal scores have no top; both models may give the same "
            "output for this sample, so leave it out"
        )
    return [
        scores.top(count=len(selection), warn=False).overlap(selection)
        for selection in found.values()
    ]


def _best_threshold(values: Float[Tensor, "samples"], inside: Bool[Tensor, "samples"]) -> float:
    levels = values.unique()
    edges = torch.cat([levels.new_tensor([0.0]), levels, levels.new_tensor([1.0])])
    middles = (edges[1:] + edges[:-1]) / 2  # between two levels, below all, above all
    right = ((values[:, None] >= middles) == inside[:, None]).sum(0)
    best = (right == right.max()).nonzero().flatten()
    widths = (edges[1:] - edges[:-1])[best]
    return float(middles[best[widths.argmax()]])

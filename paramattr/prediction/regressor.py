"""Prediction of how strongly a condition shows in a sample, from the units that serve it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.checkpoints import taken_apart
from paramattr.errors import DataError, ParamattrError
from paramattr.prediction.overlaps import (
    Rank,
    check_found,
    checked_overlaps,
    load_found,
    overlap_scores,
    save_found,
)
from paramattr.units.selection import Selection

KIND = "overlap regressor"
DEGREE = 2


@dataclass(frozen=True)
class Line:
    """What predicts one severity.

    Attributes:
        coefficients: the constant, then of each condition the powers from 1 on.
        lowest: of the severities that it was fitted on.
        highest: of those.
    """

    coefficients: tuple[float, ...]
    lowest: float
    highest: float


class OverlapRegressor:
    """Predict how severe a sample's conditions are from the overlap scores of its top units.

        s(x) = w_0 + Σ_D Σ_{p = 1}^{degree} w_{D,p} OS(x, D)^p,    OS(x, D) = |u_D ∩ u_x| / |u_x|

    with weights by least squares. A prediction is kept within the severities that were fitted on.
    Several severities may be predicted from the same overlaps: of blur and of noise, from the units
    of both.

    Args:
        found: condition to its units, as in `OverlapClassifier`.
        rank: a function from a sample to its scores, as there.
        degree: of the polynomial, at least 1.
        lines: severity to what predicts it; `fit` finds them.
        notes: anything else that `save` should write, serialisable as JSON.

    Attributes:
        lines: severity to what predicts it; empty before `fit`.
        notes: as passed, or as `load` read them.

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
        check_found(found, "predicting the severity of")
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
        return overlap_scores(self.found, self.rank, samples)

    def fit(
        self, samples: Iterable[Any], severities: Mapping[str, Sequence[float]]
    ) -> OverlapRegressor:
        """Find the weights that predict the severities best.

        Args:
            samples: as in `scores`.
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
            samples: as in `scores`.

        Returns:
            Severity to one number per sample, float64.

        Raises:
            ParamattrError: if nothing was fitted yet.
            DataError: as `scores`.
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
        save_found(path, KIND, self.found, description)

    @classmethod
    def load(cls, path: str | Path, rank: Rank | None = None) -> OverlapRegressor:
        """Read a regressor that `save` wrote.

        Args:
            path: the file.
            rank: as in the constructor; functions are not saved.

        Raises:
            CheckpointError: if the file is missing or broken, or holds no regressor.
        """
        found, rest = load_found(path, KIND, "OverlapRegressor.save", "degree", "lines", "notes")
        with taken_apart(path, "an overlap regressor"):
            lines = {
                name: Line(tuple(line["coefficients"]), line["lowest"], line["highest"])
                for name, line in rest.pop("lines").items()
            }
            return cls(found, rank, lines=lines, **rest)

    @property
    def _size(self) -> int:
        return 1 + self.degree * len(self.found)

    def _powers(self, scores: Mapping[str, Tensor]) -> Float[Tensor, "samples powers"]:
        overlaps = checked_overlaps(self.found, scores)
        columns = [
            values.double() ** power
            for values in overlaps.values()
            for power in range(1, self.degree + 1)
        ]
        return torch.stack([torch.ones_like(columns[0]), *columns], 1)

    def _check_fitted(self) -> None:
        if not self.lines:
            raise ParamattrError("no severity was fitted: call fit first, or pass lines")

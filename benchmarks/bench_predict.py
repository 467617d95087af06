"""What prediction with the ground truth lacks at the paper's 1%, and what closes it.

Every input is scored once for each reference, and kept; each variant is then made of those scores.
Filters are found on `find`, thresholds placed on `fit`, inputs predicted on `test`. A way is taken
among the combined ones by the photographs of `fit` alone: the highest accuracy there, then the
widest gap between the inputs that have a degradation and those that have not, as a share of the
distance of their means; of the two functions the worse one counts. `test` has no part in that.

"taken" may be any way, "taken, Eq. 8" one whose inputs have as many filters as are found; "for
noise alone" counts noise alone.
`accuracy_own_thresholds` is what the best thresholds of `test` itself would reach: what is lacking
there, no other place of a threshold gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.benchmark import Row, say, start
from benchmarks.input_rankings import InputRankings
from benchmarks.input_scores import OBJECTIVES, InputScores
from benchmarks.prediction_variants import MIXTURES, OWN, PAPER, SINGLE, Variant, combined
from blind_sr.labels import INPUTS, KINDS, MASKS
from blind_sr.predict.experiment import outcome
from blind_sr.predict.overlaps import Measured
from blind_sr.setting import Setting
from paramattr import Selection
from paramattr.prediction import OverlapClassifier

FLOOR = 1e-6
"""Of the overlaps' variances, where all inputs of each kind have the same."""


@dataclass(frozen=True)
class Config:
    find: Path
    fit: Path
    test: Path
    cache: Path
    network: str = "srresnet"
    crop: int = 64
    steps: int = 2
    dtype: str = "bfloat16"
    references: tuple[str, ...] = tuple(OBJECTIVES)
    mixed: tuple[str, ...] = ("truth", "self")


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Predict in every way; a row each."""
    setting = Setting(config.network, crop=config.crop, steps=config.steps, dtype=config.dtype)
    scores = InputScores(setting, config.cache)
    given = {k: v.name if isinstance(v, Path) else v for k, v in vars(config).items()}
    del given["cache"]
    trial = Trial(InputRankings(scores, config.find), config.fit, config.test, config.mixed)
    single, ways = ([v for v in own if v.uses(config.references)] for own in (SINGLE, combined()))
    rows = [say(trial.row(variant)) for variant in single]
    yield {**given, "rows": rows}
    rows += [say(row) for row in trial.taken(ways)]
    result = {**given, "ways": len(ways), "rows": rows}
    yield result
    result["why"] = [say(row) for row in trial.why(scores)]
    result["mixtures"] = [say(row) for mixed in config.mixed for row in trial.mixtures(mixed)]
    yield result


@dataclass(frozen=True)
class Trial:
    """Predictions in many ways.

    Attributes:
        rankings: of the inputs.
        fit: folder that thresholds and ways are chosen on.
        test: folder that is predicted.
        mixed: the references by which inputs that are both are scored, too.
    """

    rankings: InputRankings
    fit: Path
    test: Path
    mixed: tuple[str, ...]

    def row(self, variant: Variant) -> Row:
        """Place the thresholds, and predict."""
        classifier, fit = self._fitted(variant)
        kinds = KINDS if variant.reference in self.mixed else INPUTS
        test = self.rankings.measured(variant, classifier.found, self.test, kinds)
        tested, seen = outcome(classifier, test), OverlapClassifier(classifier.found)
        seen.fit_scores(*_single(test))
        return {
            **asdict(variant),
            **_fit(classifier, fit),
            "thresholds": classifier.thresholds,
            "accuracy": tested["accuracy"],
            "own_thresholds": seen.thresholds,
            "accuracy_own_thresholds": outcome(seen, test)["accuracy"],
            "confusion": tested["confusion"],
        }

    def taken(self, ways: list[Variant]) -> Iterator[Row]:
        """Predict as does best on the photographs that thresholds are placed on."""
        literal = [replace(way, name="taken, Eq. 8") for way in ways if way.own == way.pct]
        for own in (ways, literal):
            found = [_fit(*self._fitted(way)) for way in own]
            for masks in (MASKS, *((mask,) for mask in MASKS)):
                merits = [
                    tuple(min(one[k][mask] for mask in masks) for k in ("accuracy_fit", "gap"))
                    for one in found
                ]
                best = own[merits.index(max(merits))]
                words = "" if masks == MASKS else f", for {masks[0]} alone"
                yield self.row(replace(best, name=f"{best.name}{words}"))

    def why(self, scores: InputScores) -> Iterator[Row]:
        """Compare the inputs that are told and those that are missed.

        By the error that the target leaves, over what it changes of the baseline's output, and by
        the overlap of an input's filters with those of its photograph, clean.
        """
        classifier, _ = self._fitted(PAPER)
        for number, mask in enumerate(MASKS):
            for folder in (self.fit, self.test):
                errors = scores.errors(folder, mask)
                overlaps = self.rankings.overlaps(PAPER, classifier.found, folder, mask)[:, number]
                told = overlaps >= classifier.thresholds[mask]
                measured = {
                    "left_over_moved": errors["left"] / errors["moved"],
                    "overlap_with_clean": self.rankings.agreement(PAPER, folder, mask, "clean"),
                }
                yield {
                    "input": mask,
                    "folder": folder.name,
                    "told": int(told.sum()),
                    "overlap": _quantiles(overlaps),
                    **{f"{name}_told": _quantiles(own[told]) for name, own in measured.items()},
                    **{f"{name}_missed": _quantiles(own[~told]) for name, own in measured.items()},
                    "rank_correlations": {
                        name: _rank_correlation(own, overlaps) for name, own in measured.items()
                    },
                }

    def mixtures(self, reference: str) -> Iterator[Row]:
        """Tell four kinds of input, in some ways by filters for those that are both, too."""
        for name, others in MIXTURES.items():
            plain = Variant(name, reference=reference, shares=True)
            ways = [replace(plain, score=s, own=own) for s in ("magnitudes", "sums") for own in OWN]
            tried = [self._mixture(way, others, self.fit) for way in ways]
            accuracies = [_nearest(fit, fit)["accuracy"] for _, fit in tried]
            best = accuracies.index(max(accuracies))
            for way in dict.fromkeys((plain, ways[best])):
                found, fit = self._mixture(way, others, self.fit)
                test = {k: self.rankings.overlaps(way, found, self.test, k) for k in KINDS}
                means = {kind: _named(found, own.mean(0)) for kind, own in test.items()}
                words = {"mixture": name, "reference": reference}
                yield (
                    words
                    | {"score": way.score, "own": way.own, "overlaps": means}
                    | _nearest(fit, test)
                )

    def _mixture(
        self, way: Variant, others: Mapping[str, tuple[str, ...]], folder: Path
    ) -> tuple[dict[str, Selection], dict[str, Tensor]]:
        found = self.rankings.found(way, others)
        return found, {k: self.rankings.overlaps(way, found, folder, k) for k in KINDS}

    def _fitted(self, variant: Variant) -> tuple[OverlapClassifier, Measured]:
        classifier = OverlapClassifier(self.rankings.found(variant, variant.others))
        fit = self.rankings.measured(variant, classifier.found, self.fit, INPUTS)
        classifier.fit_scores(fit.overlaps, fit.labels())
        if variant.place != "gap":
            classifier.thresholds = {m: PLACES[variant.place](*_two(fit, m)) for m in MASKS}
        return classifier, fit


def _single(measured: Measured) -> tuple[dict[str, Tensor], list[tuple[str, ...]]]:
    """Give overlaps and labels, without the inputs that are both."""
    chosen = [number for number, kind in enumerate(measured.kinds) if kind in INPUTS]
    labels = measured.labels()
    overlaps = {mask: values[chosen] for mask, values in measured.overlaps.items()}
    return overlaps, [labels[number] for number in chosen]


def _fit(classifier: OverlapClassifier, fit: Measured) -> Row:
    accuracy = outcome(classifier, fit)["accuracy"]
    return {"accuracy_fit": accuracy, "gap": {mask: _gap(*_two(fit, mask)) for mask in MASKS}}


def _two(measured: Measured, mask: str) -> tuple[Tensor, Tensor]:
    """Give the overlaps of the inputs that have a degradation, and those of the others."""
    inside = torch.tensor([mask in labels for labels in measured.labels()])
    return measured.overlaps[mask][inside], measured.overlaps[mask][~inside]


def _gap(inside: Tensor, outside: Tensor) -> float:
    return float((inside.min() - outside.max()) / (inside.mean() - outside.mean()))


def _between_means(inside: Tensor, outside: Tensor) -> float:
    return float(inside.mean() + outside.mean()) / 2


def _by_spreads(inside: Tensor, outside: Tensor) -> float:
    one, other = inside.std(), outside.std()
    return float((inside.mean() * other + outside.mean() * one) / (one + other))


PLACES = {"means": _between_means, "spreads": _by_spreads}


def _nearest(fit: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> Row:
    """Take each input for the kind whose mean is nearest, by the deviations within kinds."""
    means = torch.stack([own.mean(0) for own in fit.values()])
    within = torch.cat([own - own.mean(0) for own in fit.values()])
    spread = within.T @ within / len(within) + FLOOR * torch.eye(within.shape[1]).double()
    whitened = torch.linalg.cholesky(torch.linalg.inv(spread))
    found: Row = {}
    for name, inputs in (("_fit", fit), ("", test)):
        table, right = {}, 0.0
        for kind, own in inputs.items():
            nearest = torch.cdist(own @ whitened, means @ whitened).argmin(1)
            table[kind] = {other: int((nearest == n).sum()) for n, other in enumerate(fit)}
            right += table[kind][kind] / len(own) / len(inputs)
        found |= {f"accuracy{name}": right, f"confusion{name}": table}
    return found


def _named(names: Iterable[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _quantiles(values: Tensor) -> list[float]:
    """Give the least, the 10th, 50th and 90th percentile, and the largest; nothing of nothing."""
    if not len(values):
        return []
    places = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    return [float(one) for one in torch.quantile(values.double(), places)]


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    start(Config, run)

"""Predict what degraded inputs, and measure how often that is right (Sec. 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blind_sr.classify.ranking import check_reference, ranker
from blind_sr.data.photographs import Photographs, with_both
from blind_sr.labels import INPUTS, KINDS, MASKS
from blind_sr.models.pairs import Pair
from blind_sr.predict.overlaps import PREDICTED, Measured, measure, repeated
from blind_sr.rankings.search import find_units
from blind_sr.run import progress
from blind_sr.setting import Setting, check_percents
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished
from paramattr.prediction import OverlapClassifier

USES = {"fit": INPUTS, "test": KINDS}
"""Folder to the conditions of its photographs that are ranked."""


@dataclass(frozen=True)
class PredictConfig:
    """A prediction.

    Attributes:
        setting: pair, rule and machine; its photographs are not used.
        find: folder to find the filters on; None for the photographs of scikit-image.
        fit: folder to fit the thresholds on.
        test: folder to predict on.
        limit: photographs of each folder, the first by name; 0 for all.
        reference: `"self"` (the target's own output) or `"truth"`.
        pct: share of the filters, in percent.
        out: folder that keeps what was done, so that a repeated run resumes.
    """

    setting: Setting = field(default_factory=lambda: Setting(steps=4))
    find: Path | None = None
    fit: Path | None = None
    test: Path | None = None
    limit: int = 0
    reference: str = "self"
    pct: float = 1.0
    out: Path = Path("predict-output")

    def settings(self, pair: Pair) -> dict[str, Any]:
        """What a classifier says of how it was made."""
        of_pair = {"mode": self.reference, "weights": pair.digest, "pct": self.pct}
        return {**of_pair, **self.setting.content}


@dataclass(frozen=True)
class PredictResult:
    """What a prediction gave.

    Attributes:
        config: what was run.
        classifier: fitted.
        measured: `"fit"` and `"test"` to the overlap scores of their inputs.
        counts: photographs of each folder, and how many under test served before too.
    """

    config: PredictConfig
    classifier: OverlapClassifier
    measured: dict[str, Measured]
    counts: dict[str, int]

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        return {
            **outcome(self.classifier, self.measured["test"]),
            "thresholds": self.classifier.thresholds,
            "counts": self.counts,
            **self.classifier.notes,
        }


def run(config: PredictConfig) -> PredictResult:
    """Find filters on a first folder, fit thresholds on a second, predict on a third.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    setting = config.setting
    check_reference(config.reference)
    check_percents(config.pct)
    setting.check()
    pair = setting.load_pair()
    used = _photographs(config)
    running = config.out / "running"
    running.mkdir(parents=True, exist_ok=True)
    settings = config.settings(pair)
    found = find_units(setting, pair, used["find"], config.pct, running)
    rank = ranker(pair, config.reference, n_steps=setting.steps, method=setting.quadrature)
    classifier = OverlapClassifier(found, rank, notes=settings)
    chosen = fingerprint([{mask: units.chosen for mask, units in found.items()}])
    kept = Unfinished(running / "overlaps.safetensors", {**settings, "filters": chosen})
    inputs = sum(len(used[use].names) * len(kinds) for use, kinds in USES.items())
    with progress("ranking for each input", inputs) as advance:
        measured = {
            use: measure(classifier, used[use], kinds, kept, advance=advance)
            for use, kinds in USES.items()
        }
    classifier.fit_scores(measured["fit"].overlaps, measured["fit"].labels())
    counts = {use: len(own.names) for use, own in used.items()}
    counts["repeated"] = repeated(used["test"], used["find"], used["fit"])
    return PredictResult(config, classifier, measured, counts)


def outcome(classifier: OverlapClassifier, tested: Measured) -> dict[str, Any]:
    """Compare what is predicted with what was done.

    Returns:
        `accuracy`: condition to the share of blurry, noisy and clean inputs that are rightly said
        to be in it or not (those that are both do not count); `confusion`: kind to how often each
        set of conditions was predicted; `overlaps`: kind to its mean overlap scores.
    """
    predicted = classifier.predict_scores(tested.overlaps)
    table = list(zip(tested.kinds, tested.labels(), predicted, strict=True))
    single = [(labels, found) for kind, labels, found in table if kind in INPUTS]
    accuracy = {
        mask: sum((mask in labels) == (mask in found) for labels, found in single) / len(single)
        for mask in MASKS
    }
    confusion = {kind: dict.fromkeys(PREDICTED, 0) for kind in dict.fromkeys(tested.kinds)}
    for kind, _, found in table:
        confusion[kind][taken_for(found)] += 1
    means = {
        kind: {mask: float(tested.overlaps[mask][tested.of_kind(kind)].mean()) for mask in MASKS}
        for kind in confusion
    }
    return {"accuracy": accuracy, "confusion": confusion, "overlaps": means}


def taken_for(conditions: frozenset[str]) -> str:
    """Name what an input is taken for, by the conditions that were predicted."""
    return "both" if len(conditions) > 1 else next(iter(conditions), "none")


def _photographs(config: PredictConfig) -> Mapping[str, Photographs]:
    folders = {"find": config.find, "fit": config.fit, "test": config.test}
    loaded = {
        folder: with_both(
            replace(config.setting, images=folder).load_photographs(),
            limit=config.limit,
            seed=config.setting.seed,
        )
        for folder in dict.fromkeys(folders.values())
    }
    return {use: loaded[folder] for use, folder in folders.items()}

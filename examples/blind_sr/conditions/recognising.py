"""Which degradation an input has, from the units that serve it (Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blind_sr.classify.ranking import ranker
from blind_sr.data.photographs import Photographs
from blind_sr.models.pairs import Pair
from blind_sr.run import progress
from blind_sr.setting import Setting
from paramattr import OverlapClassifier, Selection
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished

NONE, SEVERAL = "none", "several"


@dataclass(frozen=True)
class Recognised:
    """What inputs were taken for.

    Attributes:
        classifier: fitted.
        confusion: condition, or `"clean"`, to how often its inputs were taken for each condition,
            for `"none"`, or for `"several"`.
        overlaps: condition, or `"clean"`, to the mean overlap score with each condition's units.
        counts: photographs of each folder.
    """

    classifier: OverlapClassifier
    confusion: dict[str, dict[str, int]]
    overlaps: dict[str, dict[str, float]]
    counts: dict[str, int]

    @property
    def accuracy(self) -> float:
        """The share of inputs that were taken for what they are, and for nothing else."""
        right = sum(row[NONE if kind == "clean" else kind] for kind, row in self.confusion.items())
        return right / sum(sum(row.values()) for row in self.confusion.values())

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        return {
            "accuracy": self.accuracy,
            "confusion": self.confusion,
            "overlaps": self.overlaps,
            "thresholds": self.classifier.thresholds,
            "counts": self.counts,
        }


def recognise(
    pair: Pair,
    found: Mapping[str, Selection],
    used: Mapping[str, Photographs],
    *,
    setting: Setting,
    units: str,
    out: Path,
) -> Recognised:
    """Fit a threshold per condition on `used["fit"]`, and recognise those of `used["test"]`.

    The reference is the target's own output, as for an input without a ground truth.

    Args:
        pair: baseline and target.
        found: condition to its units.
        used: `"fit"` and `"test"`, with inputs in every condition and clean.
        setting: whose rule is taken.
        units: name of their reducer.
        out: folder that keeps the overlap scores until the run ends.
    """
    out.mkdir(parents=True, exist_ok=True)
    rank = ranker(pair, "self", n_steps=setting.steps, method=setting.quadrature, units=units)
    classifier = OverlapClassifier(found, rank)
    chosen = fingerprint([{name: own.chosen for name, own in found.items()}])
    stamp = {"weights": pair.digest, "chosen": chosen, **setting.content}
    file = out / "recognising.safetensors"
    kept = Unfinished(file, stamp)
    kinds = ("clean", *found)
    inputs = len(kinds) * sum(len(own.names) for own in used.values())
    overlaps: dict[str, list[dict[str, float]]] = {}
    with progress("ranking for each input", inputs) as advance:
        for use, photographs in used.items():
            overlaps[use] = []
            for kind in kinds:
                for low in photographs.low[kind]:
                    key = fingerprint([{"input": low}])
                    if key not in kept.notes:
                        scores = classifier.scores([(low, None)])
                        kept.notes[key] = {name: float(v[0]) for name, v in scores.items()}
                        kept.save({}, kept.notes)
                    overlaps[use].append(kept.notes[key])
                    advance(1)
    labels = {use: [kind for kind in kinds for _ in own.names] for use, own in used.items()}
    columns = {
        use: {name: torch.tensor([row[name] for row in rows]) for name in found}
        for use, rows in overlaps.items()
    }
    conditions = [() if kind == "clean" else (kind,) for kind in labels["fit"]]
    classifier.fit_scores(columns["fit"], conditions)
    taken = [_name(own) for own in classifier.predict_scores(columns["test"])]
    told = list(zip(labels["test"], taken, strict=True))
    confusion = {
        kind: {name: told.count((kind, name)) for name in (*found, NONE, SEVERAL)} for kind in kinds
    }
    inside = {kind: [k for k, own in enumerate(labels["test"]) if own == kind] for kind in kinds}
    means = {
        kind: {name: float(columns["test"][name][own].mean()) for name in found}
        for kind, own in inside.items()
    }
    file.unlink(missing_ok=True)
    counts = {use: len(own.names) for use, own in used.items()}
    return Recognised(classifier, confusion, means, counts)


def _name(conditions: frozenset[str]) -> str:
    return SEVERAL if len(conditions) > 1 else next(iter(conditions), NONE)

"""What degraded an input, told by the filters that serve it (Sec. 4.3 and 5.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.degradations import CONDITIONS, degrade
from blind_sr.rankings import find_filters
from blind_sr.study import INPUTS, MASKS, Advance, Pair, Photographs, load_photographs
from paramattr import FAIG, Scores, Selection, self_reference, squared_error
from paramattr.checkpoints import fingerprint
from paramattr.errors import CheckpointError, ParamattrError
from paramattr.objectives import Objective
from paramattr.prediction import OverlapClassifier

REFERENCES: dict[str, Objective] = {"self": self_reference, "truth": squared_error}
"""What an input's output is compared with: the target's own, or the ground truth."""
KINDS = (*INPUTS, "both")
PREDICTED = ("blur", "noise", "both", "none")

Sample = tuple[Tensor, Tensor | None]
"""A low-resolution input and its ground truth, both `(1, 3, H, W)`; None where there is none."""
Rank = Callable[[Sample], Scores]


@dataclass(frozen=True)
class Measured:
    """Overlap scores of many inputs.

    Attributes:
        names: the photograph of each input.
        kinds: what was done to each: `"blur"`, `"noise"`, `"clean"` or `"both"`.
        overlaps: condition to one number an input.
    """

    names: list[str]
    kinds: list[str]
    overlaps: dict[str, Float[Tensor, "inputs"]]

    def labels(self) -> list[tuple[str, ...]]:
        """Name the degradations of each input."""
        return [tuple(m for m in MASKS if CONDITIONS[k][MASKS.index(m)]) for k in self.kinds]

    def of_kind(self, kind: str) -> list[int]:
        """Number the inputs of a kind."""
        return [number for number, own in enumerate(self.kinds) if own == kind]


class Kept:
    """Overlap scores that outlive a kill: a file with one line an input, and the settings first.

    Args:
        path: the file; None keeps nothing.
        settings: what the file must have been made with, of the kinds JSON knows.

    Raises:
        CheckpointError: if it was made with other settings, or is no such file.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path, self.known = path, {}  # type: Path | None, dict[str, dict[str, float]]
        if path is None:
            return
        found = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in found if line.endswith("\n")]  # a kill may cut the last one off
        try:
            first, *rows = map(json.loads, whole or [json.dumps(settings)])
            differing = [key for key in settings if first.get(key) != settings[key]]
            self.known = {row["input"]: row["overlaps"] for row in rows}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(
                f"file {path} holds no overlap scores of an unfinished run: remove it"
            ) from None
        if differing:
            raise CheckpointError(
                f"the unfinished run in {path.parent} was made with other settings "
                f"({', '.join(differing)} differ): remove that folder, or give another (--out)"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(whole) or json.dumps(settings) + "\n")

    def overlaps(self, classifier: OverlapClassifier, sample: Sample) -> dict[str, float]:
        """Give the overlap scores of an input, computed if they are not known yet."""
        low, truth = sample
        key = fingerprint([{"input": low}, {} if truth is None else {"truth": truth}])
        if key not in self.known:
            found = classifier.scores([sample])
            self.known[key] = {condition: float(values[0]) for condition, values in found.items()}
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps({"input": key, "overlaps": self.known[key]}) + "\n")
        return self.known[key]


def load_kinds(
    images: str | Path | None, *, limit: int = 0, seed: int = 0, **options: Any
) -> Photographs:
    """Read photographs and degrade them in all four ways, blurry and noisy at once too.

    Args:
        images: a folder; by default the colour photographs that scikit-image brings along.
        limit: how many of them, the first by name; 0 for all.
        seed: of the noise.
        options: `crop`, `device` and `dtype` of `study.load_photographs`.

    Raises:
        DataError: as `study.load_photographs`.
    """
    every = load_photographs(images, seed=seed, **options)
    chosen = slice(limit or None)
    high = every.high[chosen]
    low = {condition: inputs[chosen] for condition, inputs in every.low.items()}
    draws = (torch.Generator().manual_seed(1_000_003 * seed + k) for k in range(len(high)))
    low["both"] = [
        degrade(truth.float().cpu(), "both", draw).to(truth)
        for truth, draw in zip(high, draws, strict=True)
    ]
    return Photographs(every.names[chosen], high, low)


def weights_digest(pair: Pair) -> str:
    """Tell a pair of weights from any other, in whatever precision it was loaded."""
    models = (pair.baseline, pair.target)
    return fingerprint([{n: v.float() for n, v in m.state_dict().items()} for m in models])


def ranker(pair: Pair, reference: str, *, n_steps: int, method: str) -> Rank:
    """Give the function that ranks the filters for one input (Eq. 6, without contrast).

    Args:
        pair: baseline and target.
        reference: `"self"` or `"truth"`.
        n_steps: nodes of the rule.
        method: name of the quadrature rule.
    """
    objective = REFERENCES[reference]
    faig = FAIG(pair.target, pair.baseline, objective=objective, dtype=pair.mixed)

    def rank(sample: Sample) -> Scores:
        low, truth = sample
        batch = low if reference == "self" else (low, truth)
        return faig.score([batch], reducer="kernel", n_steps=n_steps, method=method)

    return rank


def find_units(
    pair: Pair,
    photographs: Photographs,
    pct: float,
    *,
    n_steps: int,
    method: str = "gausslegendre",
    checkpoints: Path | None = None,
    advance: Advance = lambda amount: None,
) -> dict[str, Selection]:
    """Find the filters of each function by FAIG with the ground truth (Eq. 7).

    Args:
        pair: baseline and target.
        photographs: on which the functions show.
        pct: share of the filters, in percent.
        n_steps: nodes of the rule.
        method: name of the quadrature rule.
        checkpoints: as in `rankings.find_filters`.
        advance: as in `rankings.find_filters`.
    """
    rankings = find_filters(
        pair,
        photographs,
        ["faig"],
        n_steps=n_steps,
        method=method,
        checkpoints=checkpoints,
        advance=advance,
    )
    return {mask: rankings["faig"][mask][0].top(fraction=pct / 100) for mask in MASKS}


def measure(
    classifier: OverlapClassifier,
    photographs: Photographs,
    kinds: Sequence[str],
    kept: Kept,
    *,
    advance: Advance = lambda amount: None,
) -> Measured:
    """Rank the filters for each input and compare them with those found (Eq. 8).

    Args:
        classifier: with a `ranker`.
        photographs: of `load_kinds`.
        kinds: which of their inputs.
        kept: the scores of an earlier run.
        advance: called with 1 after each input.
    """
    names, rows = [], []
    for number, name in enumerate(photographs.names):
        for kind in kinds:
            sample = (photographs.low[kind][number], photographs.high[number])
            rows.append(kept.overlaps(classifier, sample))
            names.append(name)
            advance(1)
    values = {c: torch.tensor([row[c] for row in rows], dtype=torch.float64) for c in MASKS}
    return Measured(names, list(kinds) * len(photographs.names), values)


def repeated(tested: Photographs, *others: Photographs) -> int:
    """Count the photographs under test that are among the others too."""
    known = {fingerprint([{"": image}]) for other in others for image in other.high}
    return sum(fingerprint([{"": image}]) in known for image in tested.high)


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


def load_classifier(path: str | Path, rank: Rank | None, digest: str) -> OverlapClassifier:
    """Read a classifier that `save_prediction` wrote for the weights of this digest.

    Raises:
        CheckpointError: if it is not there, or was made for other weights or with the truth.
    """
    way_out = "make one with 'paramattr blindsr predict --out DIR' and give it (--classifier)"
    if not Path(path).is_file():
        raise CheckpointError(f"classifier {path} is not there: {way_out}")
    classifier = OverlapClassifier.load(path, rank)
    if classifier.notes.get("weights") != digest:
        raise CheckpointError(f"classifier {path} was made for other weights: {way_out}")
    if classifier.notes.get("mode") != "self":
        raise CheckpointError(
            f"classifier {path} was fitted with the ground truth (--reference truth), which a "
            f"single image has not: {way_out}"
        )
    return classifier


def check_reference(reference: str) -> None:
    """Refuse a reference that is not known.

    Raises:
        ParamattrError: naming those that are.
    """
    if reference not in REFERENCES:
        raise ParamattrError(
            f"reference {reference!r} is not known: expected {' or '.join(REFERENCES)}"
        )

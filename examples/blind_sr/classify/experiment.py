"""Tell what degraded one image, by the filters that serve it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blind_sr.classify.ranking import Rank, ranker
from blind_sr.data.images import centre_crop, read_image
from blind_sr.models.pairs import BUNDLED_WEIGHTS
from blind_sr.setting import Setting
from paramattr.errors import CheckpointError
from paramattr.prediction import OverlapClassifier


@dataclass(frozen=True)
class ClassifyConfig:
    """The classification of one image.

    Attributes:
        image: the low-resolution image.
        setting: pair, rule and machine; its photographs are not used.
        classifier: a file that `predict` wrote; None for the one beside the weights.
        steps: nodes of the rule; None for the classifier's.
        crop: middle of the image that is used, 0 for all; None for the classifier's.
    """

    image: Path
    setting: Setting = field(default_factory=Setting)
    classifier: Path | None = None
    steps: int | None = None
    crop: int | None = None


@dataclass(frozen=True)
class ClassifyResult:
    """What an image is taken for.

    Attributes:
        image: the file.
        overlaps: condition to the image's overlap score.
        thresholds: condition to the overlap from which an image counts as in it.
        predicted: the conditions that it is taken to be in.
    """

    image: Path
    overlaps: dict[str, float]
    thresholds: dict[str, float]
    predicted: frozenset[str]

    @property
    def content(self) -> dict[str, Any]:
        """All of it, of the kinds JSON knows."""
        predicted = sorted(self.predicted)
        return {**vars(self), "image": str(self.image), "predicted": predicted}


def run(config: ClassifyConfig) -> ClassifyResult:
    """Rank the filters for an image, and compare them with those of each function.

    Raises:
        CheckpointError: if the classifier does not fit.
        ParamattrError: for settings that cannot be, before any work.
    """
    setting = config.setting
    if config.steps is not None:
        setting = replace(setting, steps=config.steps)
    setting.check()
    pair = setting.load_pair()
    folder = setting.weights or BUNDLED_WEIGHTS
    file = config.classifier or folder / f"{setting.network}_classifier.safetensors"
    classifier = load_classifier(file, None, pair.digest)
    steps = classifier.notes["steps"] if config.steps is None else config.steps
    crop = classifier.notes["crop"] if config.crop is None else config.crop
    classifier.rank = ranker(pair, "self", n_steps=steps, method=setting.quadrature)
    pixels = read_image(config.image)
    low = (centre_crop(pixels, crop, name=config.image) if crop else pixels)[None].float() / 255
    scores = classifier.scores([(low.to(next(pair.target.parameters())), None)])
    [predicted] = classifier.predict_scores(scores)
    overlaps = {condition: float(values[0]) for condition, values in scores.items()}
    return ClassifyResult(config.image, overlaps, classifier.thresholds, predicted)


def load_classifier(path: str | Path, rank: Rank | None, digest: str) -> OverlapClassifier:
    """Read a classifier that `paramattr blindsr predict` wrote for the weights of this digest.

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

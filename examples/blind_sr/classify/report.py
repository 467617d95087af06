"""What a person reads of a classification."""

from __future__ import annotations

from blind_sr.classify.experiment import ClassifyResult
from blind_sr.labels import INPUT_LABELS


def lines(result: ClassifyResult) -> list[str]:
    """Lay out each overlap beside its threshold, and what the image is taken for."""
    found = [
        f"{INPUT_LABELS[condition]}: overlap {overlap:.3f} "
        f"{'>=' if condition in result.predicted else '<'} {result.thresholds[condition]:.3f}"
        for condition, overlap in result.overlaps.items()
    ]
    said = " and ".join(INPUT_LABELS[c] for c in result.overlaps if c in result.predicted)
    return [*found, f"{result.image.name} is {said or 'neither blurry nor noisy'}"]

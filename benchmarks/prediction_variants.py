"""The ways to predict a degradation that are compared with the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from blind_sr.labels import KINDS, MASKS

OTHER = {"blur": "noise", "noise": "blur"}
OWN = (0.04, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
FOUND = (0.04, 0.1, 0.2, 0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Variant:
    """A way to predict; the defaults are the paper's.

    Attributes:
        name: what differs.
        reference: of `input_scores.OBJECTIVES`, of the input's scores.
        found_by: the same of the scores that filters are found by.
        score: `"magnitudes"` of every weight, summed; `"sums"`: magnitude of the sum over a filter;
            `"falls"`: how far the error falls, with its sign.
        contrast: what is subtracted: scores of the `"other"` function, of the `"clean"` input, or
            the mean of the `"two"`.
        shares: whether each condition's scores are divided by their total first
            (`contrast(weight="share")`).
        general: whether the mean shares of clean inputs are subtracted from an input's.
        pct: percent of the filters that are found.
        own: percent of the filters that an input's are.
        place: where a threshold is: the middle of the widest `"gap"` that tells best, the middle
            of the two `"means"`, or as many deviations (`"spreads"`) from either.
    """

    name: str
    reference: str = "truth"
    found_by: str = "truth"
    score: str = "magnitudes"
    contrast: str = "other"
    shares: bool = False
    general: bool = False
    pct: float = 1.0
    own: float = 1.0
    place: str = "gap"

    @property
    def others(self) -> dict[str, tuple[str, ...]]:
        """Function to the conditions whose mean is subtracted."""
        chosen = {"other": ("{}",), "clean": ("clean",), "two": ("{}", "clean")}[self.contrast]
        return {mask: tuple(one.format(OTHER[mask]) for one in chosen) for mask in MASKS}

    def uses(self, references: Iterable[str]) -> bool:
        """Say whether it needs no other reference than these."""
        return {self.reference, self.found_by} <= {*references}


PAPER = Variant("the paper's")
SINGLE = (
    PAPER,
    Variant("absolute error", reference="truth L1", found_by="truth L1"),
    Variant("absolute error, of inputs alone", reference="truth L1"),
    Variant("logarithm of the error", reference="truth log", found_by="truth log"),
    Variant("sums over a filter", score="sums"),
    Variant("sums with their sign", score="falls"),
    Variant("contrast with clean", contrast="clean"),
    Variant("contrast with both others", contrast="two"),
    Variant("shares", shares=True),
    Variant("less what clean inputs have", general=True),
    *(Variant(f"an input's top {own:g}%", own=own) for own in OWN if own != 1),
    *(Variant(f"{pct:g}% found, an input's {pct:g}%", pct=pct, own=pct) for pct in FOUND),
    Variant("threshold between the means", place="means"),
    Variant("threshold by the spreads", place="spreads"),
    Variant("own output", reference="self"),
    Variant("own output, sums", "self", score="sums", contrast="clean", shares=True),
)
"""The paper's way with one thing changed."""


def combined() -> Iterator[Variant]:
    """Combine what leaves the ground truth and the paper's 1% of filters as they are."""
    scores, contrasts, either = ("magnitudes", "sums"), ("other", "clean", "two"), (False, True)
    for reference in ("truth", "truth L1"):
        way = replace(PAPER, name="taken", reference=reference, found_by=reference)
        for score, contrast, shares, general, own in product(
            scores, contrasts, either, either, OWN
        ):
            parts = {"score": score, "contrast": contrast, "shares": shares, "general": general}
            yield replace(way, own=own, **parts)  # type: ignore[arg-type]


def _against_rest(*kinds: str) -> dict[str, tuple[str, ...]]:
    return {kind: tuple(other for other in KINDS if other != kind) for kind in kinds}


MIXTURES: dict[str, dict[str, tuple[str, ...]]] = {
    "two classes": {"blur": ("noise",), "noise": ("blur",)},
    "a third": {"blur": ("noise",), "noise": ("blur",), "both": ("blur", "noise")},
    "each against the rest": _against_rest(*MASKS, "both"),
    "clean too": _against_rest(*KINDS),
}
"""Classes to the conditions that are subtracted, where inputs may be blurry and noisy at once."""

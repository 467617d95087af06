"""Damage: an edited model that is worse than the baseline has lost more than a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.buffers import moving_buffers
from paramattr.faithfulness.curves import Bootstrap, Curve, Interval
from paramattr.faithfulness.memory import Measure, Memory
from paramattr.parameters import Baseline, align
from paramattr.surgery.edits import holding
from paramattr.wrappers import unwrapped

NOTHING = Interval(float("nan"), float("nan"), float("nan"))
LIMIT = 1.1
"""The lost share above which an edit is damage. Taking back an exact list can come out a little
above 1: a planted one has 1.016, with its interval above 1."""


class Ends(NamedTuple):
    """The objective against the truth on one condition, of the two models as they are.

    Attributes:
        target: `(samples,)`.
        baseline: `(samples,)`.
    """

    target: Float[Tensor, "samples"]
    baseline: Float[Tensor, "samples"]


class Verdict(NamedTuple):
    """What the truth says of an edit.

    Attributes:
        lost: the share of the fine-tuning's gain on the own function that is lost.
        damage: whether the interval of that share lies above 1.1.
        selective: whether it costs no other condition more than its own; None where there is no
            other, or the edit is an insertion.
        reason: what is wrong, in words; empty if nothing is.
    """

    lost: Interval
    damage: bool
    selective: bool | None
    reason: str

    @property
    def marks(self) -> dict[str, Any]:
        """What it says beside the numbers, as columns."""
        return {"damage": self.damage, "selective": self.selective, "reason": self.reason}


@dataclass(frozen=True)
class Truth:
    """What the objective against the truth says of every edit.

    Attributes:
        ends: condition to the two models' own.
        curves: method, function whose units were exchanged, and condition, to the edited models'.
        edit: `"masking"` or `"insertion"`.
    """

    ends: dict[str, Ends]
    curves: dict[tuple[str, str, str], Curve]
    edit: str = "masking"

    def on(self, samples: slice) -> Truth:
        """Give it on some of the samples."""
        ends = {name: Ends(*(end[samples] for end in both)) for name, both in self.ends.items()}
        return replace(
            self, ends=ends, curves={key: curve.on(samples) for key, curve in self.curves.items()}
        )

    def lost_share(
        self, method: str, function: str, condition: str, fraction: float, bootstrap: Bootstrap
    ) -> Interval:
        """Give the share of the fine-tuning's gain on a condition that an edit loses.

            (L(edited) - L(target)) / (L(baseline) - L(target))

        0 is the target and 1 the baseline; above 1 the edited model is worse than the one before
        the fine-tuning. NaN where the fine-tuning gained nothing: where the interval of the
        denominator does not lie above 0.

        Args:
            method: whose ranking.
            function: whose units were exchanged.
            condition: that is measured.
            fraction: of the units.
            bootstrap: how the interval is drawn, over paired samples.
        """
        place = [self._edited(method, function, condition, fraction)]
        both = Curve((0.0, 1.0, 2.0), torch.stack([*self.ends[condition], *place]))
        gain = bootstrap.interval([both], lambda mean: mean[..., 1] - mean[..., 0])
        if not gain.low > 0:
            return NOTHING
        return bootstrap.interval(
            [both],
            lambda mean: (mean[..., 2] - mean[..., 0]) / (mean[..., 1] - mean[..., 0]),
        )

    def judged(self, method: str, function: str, fraction: float, bootstrap: Bootstrap) -> Verdict:
        """Say whether an edit is damage, and whether it is selective.

        It is damage where the interval of the own function's lost share lies above 1.1. A masking
        is not selective where it costs another condition more than its own: where the interval of
        the difference of the objective's rises lies above 0.

        Args:
            method: whose ranking.
            function: whose units were exchanged.
            fraction: of the units.
            bootstrap: how intervals are drawn.
        """
        lost = self.lost_share(method, function, function, fraction, bootstrap)
        damage = lost.low > LIMIT
        others = [name for name in self.ends if name != function and self.edit == "masking"]
        dearer = []
        for other in others:
            pair = [self._rise(method, function, c, fraction) for c in (other, function)]
            more = bootstrap.interval(pair, lambda one, own: one[..., 0] - own[..., 0])
            if more.low > 0:
                dearer.append(repr(other))
        reasons = ["worse than the baseline"] * damage
        if dearer:
            reasons.append(f"not selective: costs {', '.join(dearer)} more than {function!r}")
        return Verdict(lost, damage, not dearer if others else None, "; ".join(reasons))

    def columns(
        self, method: str, function: str, measured: str, fraction: float, bootstrap: Bootstrap
    ) -> dict[str, Any]:
        """Give the measured condition's lost share, and the verdict on the edit."""
        lost = self.lost_share(method, function, measured, fraction, bootstrap)
        verdict = self.judged(method, function, fraction, bootstrap)
        names = ("lost_share", "lost_low", "lost_high")
        return dict(zip(names, lost, strict=True)) | verdict.marks

    def _edited(self, method: str, function: str, condition: str, fraction: float) -> Tensor:
        curve = self.curves[method, function, condition]
        return curve.values[curve.fractions.index(fraction)]

    def _rise(self, method: str, function: str, condition: str, fraction: float) -> Curve:
        edited = self._edited(method, function, condition, fraction)
        return Curve((fraction,), (edited - self.ends[condition].target)[None])


def measure_ends(
    model: nn.Module, baseline: Baseline, truth: Mapping[str, Measure]
) -> dict[str, Ends]:
    """Measure the objective against the truth on the target and on the baseline.

    Args:
        model: the target; it holds the baseline's values for a while.
        baseline: the baseline, or a mapping of names to tensors.
        truth: condition to a measure of it, lower for a better model.

    Raises:
        ObjectiveError: if a measure does not give one finite number per sample.
    """
    model, baseline = unwrapped(model), unwrapped(baseline)
    memory = Memory(model, baseline, list(truth.values()), "masking", None)
    other = align(model, baseline) | moving_buffers(model, baseline)
    of_baseline = memory.measured(holding(model, other))
    of_target = [memory.kept[f"unedited {number}"] for number in range(len(truth))]
    return {name: Ends(*pair) for name, *pair in zip(truth, of_target, of_baseline, strict=True)}

"""Find the units of each degradation against the rest, mask them, and recognise it by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.conditions.recognising import Recognised, recognise
from blind_sr.data.degradations import CONDITIONS
from blind_sr.data.measures import output_difference
from blind_sr.data.photographs import Photographs, with_conditions
from blind_sr.labels import SEVERITIES
from blind_sr.models.outputs import Outputs, quality, restore, squared_errors
from blind_sr.models.pairs import Pair, with_target
from blind_sr.rankings.conditions import OfConditions, score_conditions
from blind_sr.run import progress, without_nan
from blind_sr.setting import Setting, check_percents
from paramattr import Comparison, Scores, Selection, against_rest, compare, contrast
from paramattr.errors import ParamattrError

UNITS = ("kernel", "output_channel", "attention_head", "neuron")


@dataclass(frozen=True)
class ConditionsConfig:
    """Any number of degradations, and any kinds of units.

    Attributes:
        setting: pair, photographs, rule and machine.
        conditions: degradations, of `labels.SEVERITIES`; at least two.
        target: another target, fine-tuned from the same baseline; None for the pair's.
        units: kinds of units, of `UNITS`.
        pct: shares of the units that are masked, in percent.
        fit: folder of photographs for fitting the recognition thresholds; None leaves that out.
        test: folder to recognise degradations on; None leaves that out.
        limit: photographs of `fit` and `test`, the first by name; 0 for all.
        out: folder that keeps what was recognised, so that a repeated run resumes.
    """

    setting: Setting = field(default_factory=Setting)
    conditions: tuple[str, ...] = ("blur", "noise")
    target: Path | None = None
    units: tuple[str, ...] = ("kernel",)
    pct: tuple[float, ...] = (1.0,)
    fit: Path | None = None
    test: Path | None = None
    limit: int = 0
    out: Path = Path("conditions-output")


@dataclass(frozen=True)
class ConditionsResult:
    """What it gave.

    Attributes:
        config: what was run.
        images: names of the photographs.
        psnr: model, then condition, to mean PSNR in dB.
        scores: units, then condition, to scores without a contrast.
        comparisons: units to what masking them does.
        recognised: what inputs were taken for; None where that was left out.
    """

    config: ConditionsConfig
    images: list[str]
    psnr: dict[str, dict[str, float]]
    scores: OfConditions
    comparisons: dict[str, Comparison]
    recognised: Recognised | None

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        return {
            "images": self.images,
            **self.config.setting.content,
            "conditions": list(self.config.conditions),
            "pct": list(self.config.pct),
            "psnr": self.psnr,
            "units": {unit: self._of_units(unit) for unit in self.scores},
            **({"recognised": self.recognised.content} if self.recognised else {}),
        }

    def _of_units(self, unit: str) -> dict[str, Any]:
        own, scores = self.comparisons[unit], self.scores[unit]
        shares = [pct / 100 for pct in self.config.pct]
        index = next(iter(scores.values())).index
        return {
            "count": len(index),
            "masked": [_size(own.rankings, share) for share in shares],
            "rows": [without_nan(row) for row in own.rows(shares) if row["fraction"]],
            "unassigned": {name: one.unassigned for name, one in scores.items()},
            "pairs": _pairs(scores, shares[0]),
        }


def run(config: ConditionsConfig) -> ConditionsResult:
    """Score, mask and, where there are folders for it, recognise.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    _check(config)
    setting = config.setting
    pair = setting.load_pair()
    if config.target is not None:
        pair = with_target(pair, config.target)
    photographs = _photographs(config, setting.images)
    kinds = ("clean", *config.conditions)
    outputs = {
        stage: restore(model, photographs, kinds)
        for stage, model in (("baseline", pair.baseline), ("target", pair.target))
    }
    with progress("scoring", 1) as advance:
        scores = score_conditions(setting, pair, photographs, config.conditions, config.units)
        advance(1)
    contrasted = {unit: against_rest(own) for unit, own in scores.items()}
    comparisons = {
        unit: masked(pair, photographs, own, outputs["target"], config.pct)
        for unit, own in contrasted.items()
    }
    recognised = None
    if config.fit is not None and config.test is not None:
        found = _top(contrasted[config.units[0]], config.pct[0] / 100)
        used = {use: _photographs(config, getattr(config, use)) for use in ("fit", "test")}
        used = {use: own.first(config.limit) for use, own in used.items()}
        recognised = recognise(
            pair, found, used, setting=setting, units=config.units[0], out=config.out
        )
    psnr = {stage: quality(own, photographs) for stage, own in outputs.items()}
    return ConditionsResult(config, photographs.names, psnr, scores, comparisons, recognised)


def masked(
    pair: Pair,
    photographs: Photographs,
    rankings: Mapping[str, Scores],
    target: Outputs,
    percents: tuple[float, ...],
) -> Comparison:
    """Mask each condition's top units, and random ones, and measure every condition.

    Measured is the output difference on grey outputs, times 1000 (Sec. 5.2.1), and as the truth the
    squared error to the photographs.
    """

    def difference(condition: str, model: nn.Module) -> Float[Tensor, "photographs"]:
        outputs = restore(model, photographs, [condition])[condition]
        pairs = zip(outputs, target[condition], strict=True)
        return 1000 * torch.cat([output_difference(*pair) for pair in pairs]).double()

    def error(condition: str, model: nn.Module) -> Float[Tensor, "photographs"]:
        return squared_errors(restore(model, photographs, [condition])[condition], photographs)

    return compare(
        pair.target,
        pair.baseline,
        {"faig": rankings},
        {condition: partial(difference, condition) for condition in rankings},
        fractions=(0.0, *(pct / 100 for pct in percents)),
        truth={condition: partial(error, condition) for condition in rankings},
        show_progress=False,
    )


def _check(config: ConditionsConfig) -> None:
    config.setting.check()
    check_percents(*config.pct)
    for what, given, known in (
        ("conditions", config.conditions, tuple(SEVERITIES)),
        ("units", config.units, UNITS),
    ):
        if not given or not set(given) <= set(known) or len(set(given)) < len(given):
            raise ParamattrError(
                f"{what} are {', '.join(given) or 'none'}: expected some of {', '.join(known)}, "
                "each once"
            )
    if len(config.conditions) < 2:
        raise ParamattrError(
            f"there is one condition, {config.conditions[0]}: expected at least two, to contrast"
        )
    if (config.fit is None) != (config.test is None):
        raise ParamattrError("recognising takes two folders: expected --fit and --test, or neither")


def _photographs(config: ConditionsConfig, folder: Path | None) -> Photographs:
    setting = replace(config.setting, images=folder)
    own = {name: CONDITIONS[name] for name in config.conditions}
    return with_conditions(setting.load_photographs(), own, seed=setting.seed)


def _top(rankings: Mapping[str, Scores], fraction: float) -> dict[str, Selection]:
    return {name: scores.top(fraction=fraction) for name, scores in rankings.items()}


def _size(rankings: dict[str, dict[str, list[Scores]]], fraction: float) -> dict[str, Any]:
    """Say how many units a share is, and what share of the entries of all units they hold."""
    row: dict[str, Any] = {"pct": 100 * fraction}
    for name, (scores, *_) in rankings["faig"].items():
        chosen = scores.top(fraction=fraction, warn=False)
        shapes = scores.index.shapes
        sizes = scores.index.reduce({n: torch.ones(shape) for n, shape in shapes.items()})
        row["units"] = len(chosen)
        row[f"entries_{name}"] = float(sizes[chosen.chosen].sum() / sizes.sum())
    return row


def _pairs(scores: Mapping[str, Scores], fraction: float) -> list[dict[str, Any]]:
    """Compare one against the rest with all pairs: what share of the top units is the same."""
    rest = _top(against_rest(scores), fraction)
    plain = _top(scores, fraction)
    return [
        {
            "condition": one,
            "other": other,
            "of_the_pair": rest[one].overlap(
                contrast(scores[one], scores[other]).top(fraction=fraction)
            ),
            "shared": rest[one].overlap(rest[other]),
            "shared_without_contrast": plain[one].overlap(plain[other]),
        }
        for one, other in permutations(scores, 2)
    ]

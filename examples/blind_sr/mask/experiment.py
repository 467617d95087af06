"""Find the filters of each function, mask them, measure what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blind_sr.data.photographs import Photographs
from blind_sr.labels import BASIC, INPUTS, MASKS
from blind_sr.models.outputs import (
    Outputs,
    by_plane,
    output_measure,
    quality,
    restore,
    truth_of,
)
from blind_sr.models.pairs import Pair
from blind_sr.rankings.methods import named
from blind_sr.rankings.search import Rankings, search_filters
from blind_sr.run import Advance, progress, unseen, without_nan
from blind_sr.setting import Setting, check_percents
from paramattr import FAIG, Bootstrap, Curve, PathProfile, Selection, substitute
from paramattr.faithfulness.comparison import distinct_scores
from paramattr.faithfulness.masking import Truth, curves
from paramattr.runtime.torchrun import is_joined

Rows = list[dict[str, Any]]
MaskCurves = dict[tuple[str, str, str], Curve]
"""Method, masked function and input to what was measured, a number per plane and photograph."""
PROFILED = 4
"""Photographs that the path's profile is taken of."""


@dataclass(frozen=True)
class MaskConfig:
    """A masking of the filters that methods find.

    Attributes:
        setting: pair, photographs, rule and machine.
        methods: names separated by commas, or `"all"`.
        pct: shares of the filters that are masked, in percent.
        out: folder that keeps the running sums; None keeps nothing.
    """

    setting: Setting = field(default_factory=Setting)
    methods: str = ",".join(BASIC)
    pct: tuple[float, ...] = (1.0,)
    out: Path | None = None


@dataclass(frozen=True)
class MaskResult:
    """What masking gave.

    Attributes:
        config: what was run.
        pair: baseline and target.
        photographs: what was restored.
        rankings: of each method, for each function.
        target: the target's outputs.
        psnr: model, then condition, to mean PSNR in dB.
        rows: of `mask_filters`.
        ratios: of `ratios` and `verdicts`.
        profiles: function to the path's profile, of `profiles`.
        depth: function to the mean depth of the first method's filters, 0 the first layer.
    """

    config: MaskConfig
    pair: Pair
    photographs: Photographs
    rankings: Rankings
    target: Outputs
    psnr: dict[str, dict[str, float]]
    rows: Rows
    ratios: Rows
    profiles: dict[str, PathProfile]
    depth: dict[str, float]

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        return {
            "images": self.photographs.names,
            **self.config.setting.content,
            "psnr": self.psnr,
            "rows": self.rows,
            "ratios": self.ratios,
            "barriers": {name: profile.barrier for name, profile in self.profiles.items()},
            "depth": self.depth,
        }


def run(config: MaskConfig) -> MaskResult:
    """Find the filters, mask them, and measure how far the outputs move.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    names, setting = named(config.methods), config.setting
    check_percents(*config.pct)
    setting.check()
    running = None if config.out is None else config.out / "running"
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
    pair, photographs = setting.load_pair(), setting.load_photographs()
    psnr, outputs = {}, {}
    with progress("restoring", 2) as advance:
        for stage, model in (("baseline", pair.baseline), ("target", pair.target)):
            outputs[stage] = restore(model, photographs)
            psnr[stage] = quality(outputs[stage], photographs)
            advance(1)
    target = outputs["target"]
    rankings = search_filters(setting, pair, photographs, names, checkpoints=running)
    with progress("masking", len(distinct_scores(rankings)) * len(config.pct)) as advance:
        drawn = mask_curves(pair, photographs, rankings, config.pct, target, advance=advance)
    truth = truth_of(photographs, outputs["baseline"], target, drawn)
    rows = mask_rows(drawn, photographs, config.pct)
    shown = rankings[names[0]]
    return MaskResult(
        config,
        pair,
        photographs,
        rankings,
        target,
        psnr,
        rows,
        verdicts(ratios(rows), truth),
        profiles(pair, photographs),
        {f: shown[f][0].top(fraction=config.pct[0] / 100).depth() for f in MASKS},
    )


def mask_filters(
    pair: Pair,
    photographs: Photographs,
    rankings: Rankings,
    percents: Sequence[float],
    target: Outputs,
    *,
    advance: Advance = unseen,
) -> Rows:
    """Mask the top filters of each ranking and measure how far the output moves (Sec. 5.2.1).

    Args:
        pair: baseline and target.
        photographs: on which the outputs are compared.
        rankings: of `search.find_filters`.
        percents: shares of the filters that are masked, in percent, above 0 and up to 100.
        target: the target's outputs, of `outputs.restore`.
        advance: called with the number of models measured since it was last called.

    Returns:
        Rows, of `mask_rows`.
    """
    drawn = mask_curves(pair, photographs, rankings, percents, target, advance=advance)
    return mask_rows(drawn, photographs, percents)


def mask_curves(
    pair: Pair,
    photographs: Photographs,
    rankings: Rankings,
    percents: Sequence[float],
    target: Outputs,
    *,
    advance: Advance = unseen,
) -> MaskCurves:
    """Draw what `outputs.output_measure` gives as the top filters go; several seeds are averaged.

    Returns:
        Method, masked function and input to a curve over the shares.
    """
    check_percents(*percents)
    distinct = distinct_scores(rankings)
    drawn = curves(
        pair.target,
        pair.baseline,
        distinct,
        [output_measure(photographs, condition, target) for condition in INPUTS],
        fractions=[pct / 100 for pct in percents],
        advance=advance,
        distributed=is_joined(),
    )
    by_scores = {id(scores): found for scores, found in zip(distinct, drawn, strict=True)}
    return {
        (method, function, condition): mean_curve([by_scores[id(s)][place] for s in several])
        for method, functions in rankings.items()
        for function, several in functions.items()
        for place, condition in enumerate(INPUTS)
    }


def mean_curve(several: Sequence[Curve]) -> Curve:
    """Average curves of the same shares and samples."""
    return Curve(several[0].fractions, torch.stack([curve.values for curve in several]).mean(0))


def mask_rows(drawn: MaskCurves, photographs: Photographs, percents: Sequence[float]) -> Rows:
    """Give one row per method, percentage, masked function and input.

    Rows of `method`, `pct`, `mask`, `input`, and `difference_x1000`, the mean over photographs (and
    seeds) of the squared difference of the gradient maps, times 1000; `difference_blue_x1000` is
    that of the blue channel.
    """
    measured = by_plane(photographs)
    methods = dict.fromkeys(method for method, _, _ in drawn)
    return [
        {
            "method": method,
            "pct": pct,
            "mask": function,
            "input": condition,
            **{
                f"difference{plane}_x1000": float(
                    drawn[method, function, condition].on(part).at(pct / 100).value
                )
                for plane, part in measured.items()
            },
        }
        for method in methods
        for pct in percents
        for function in MASKS
        for condition in INPUTS
    ]


def verdicts(compared: Rows, truth: Truth) -> Rows:
    """Say beside each ratio what share of the fine-tuning's gain is lost, and the verdict on it.

    Args:
        compared: of `ratios`.
        truth: what the squared error says of every edit.

    Returns:
        The rows with `lost_share`, `lost_low`, `lost_high`, `damage`, `selective` and `reason`.
    """
    bootstrap = Bootstrap()
    found = []
    for row in compared:
        method, function, fraction = row["method"], row["mask"], row["pct"] / 100
        said = truth.columns(method, function, function, fraction, bootstrap)
        found.append({**row, **without_nan(said)})
    return found


def profiles(pair: Pair, photographs: Photographs) -> dict[str, PathProfile]:
    """Evaluate the objective along the path, at five places, on the first few photographs."""
    faig = FAIG(pair.target, pair.baseline, dtype=pair.mixed)
    return {f: faig.path_profile(photographs.pairs(f)[:PROFILED], n_points=5) for f in MASKS}


def masked(pair: Pair, selection: Selection) -> nn.Module:
    """Give the target with the selected filters of the baseline."""
    return substitute(pair.target, pair.baseline, selection)


def ratios(rows: Rows) -> Rows:
    """Compare what masking FAIG's own filters does with two other differences.

    Args:
        rows: of `mask_filters`.

    Returns:
        One row per method but random, percentage and function: `over_random`, the own difference
        over random masking's on the same input (None without random rows), and `over_other`, over
        the difference that the same filters make on the other degradation's input.
    """
    table = {(r["method"], r["pct"], r["mask"], r["input"]): r["difference_x1000"] for r in rows}
    found = []
    for method, pct, function, condition in table:
        if method == "random" or function != condition:
            continue
        own = table[method, pct, function, function]
        other = table[method, pct, function, MASKS[1 - MASKS.index(function)]]
        chance = table.get(("random", pct, function, function))
        found.append(
            {
                "method": method,
                "pct": pct,
                "mask": function,
                "over_random": own / chance if chance else None,
                "over_other": own / other if other else None,
            }
        )
    return found

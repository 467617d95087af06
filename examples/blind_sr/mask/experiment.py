"""Find the filters of each function, mask them, measure what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from blind_sr.data.photographs import Photographs
from blind_sr.labels import BASIC, INPUTS, MASKS
from blind_sr.models.outputs import Outputs, by_plane, output_measure, quality, restore
from blind_sr.models.pairs import Pair
from blind_sr.rankings.methods import named
from blind_sr.rankings.search import Rankings, search_filters
from blind_sr.run import Advance, progress, unseen
from blind_sr.setting import Setting, check_percents
from paramattr import Selection, substitute
from paramattr.faithfulness.comparison import distinct_scores
from paramattr.faithfulness.masking import curves

Rows = list[dict[str, Any]]


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
        ratios: of `ratios`.
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
    psnr = {}
    with progress("restoring", 2) as advance:
        for stage, model in (("baseline", pair.baseline), ("target", pair.target)):
            target = restore(model, photographs)
            psnr[stage] = quality(target, photographs)
            advance(1)
    rankings = search_filters(setting, pair, photographs, names, checkpoints=running)
    with progress("masking", len(distinct_scores(rankings)) * len(config.pct)) as advance:
        rows = mask_filters(pair, photographs, rankings, config.pct, target, advance=advance)
    shown = rankings[names[0]]
    return MaskResult(
        config,
        pair,
        photographs,
        rankings,
        target,
        psnr,
        rows,
        ratios(rows),
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
        One row per method, percentage, masked function and input: `method`, `pct`, `mask`,
        `input`, and `difference_x1000`, the mean over photographs (and seeds) of the squared
        difference of the gradient maps, times 1000; `difference_blue_x1000` is that of the blue
        channel.
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
    )
    found = {id(scores): own for scores, own in zip(distinct, drawn, strict=True)}
    measured = by_plane(photographs)
    return [
        {
            "method": method,
            "pct": pct,
            "mask": function,
            "input": condition,
            **{
                f"difference{plane}_x1000": fmean(
                    found[id(scores)][place].on(part).at(pct / 100).value for scores in several
                )
                for plane, part in measured.items()
            },
        }
        for method, functions in rankings.items()
        for pct in percents
        for function, several in functions.items()
        for place, condition in enumerate(INPUTS)
    ]


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

"""Find the filters, mask them at many shares, restore at many strengths: what a report shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from blind_sr.compare.experiment import compare_methods
from blind_sr.data.photographs import Photographs
from blind_sr.labels import BASIC, MASKS
from blind_sr.mask.experiment import masked, profiles
from blind_sr.models.outputs import Outputs, restore
from blind_sr.modulate.experiment import Sweep, sweep
from blind_sr.rankings.methods import named
from blind_sr.rankings.search import search_filters
from blind_sr.run import progress
from blind_sr.setting import Setting, check_percents
from paramattr import Comparison, PathProfile, Selection
from paramattr.faithfulness.comparison import distinct_scores

FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the filters that are masked, on each curve."""
STRENGTHS = tuple(k / 4 for k in range(7))
"""From the baseline's filters, over the target's at 1, to half again beyond them."""


@dataclass(frozen=True)
class ReportConfig:
    """What a report is made of.

    Attributes:
        setting: pair, photographs, rule and machine.
        methods: names separated by commas, or `"all"`; the first finds the filters that are shown.
        pct: share of the filters that is masked before and after, in percent.
    """

    setting: Setting = field(default_factory=Setting)
    methods: str = ",".join(BASIC)
    pct: float = 1.0


@dataclass(frozen=True)
class ReportResult:
    """What there is to show.

    Attributes:
        config: what was run.
        photographs: what was restored.
        comparison: of the methods, on grey outputs.
        profiles: function to the path's profile.
        selections: function to the filters found for it.
        target: the target's outputs.
        edited: function to the outputs with its filters masked.
        sweeps: function to the outputs at each of `STRENGTHS`.
    """

    config: ReportConfig
    photographs: Photographs
    comparison: Comparison
    profiles: dict[str, PathProfile]
    selections: dict[str, Selection]
    target: Outputs
    edited: dict[str, Outputs]
    sweeps: dict[str, Sweep]

    @property
    def content(self) -> dict[str, Any]:
        """What was run, and the areas, of the kinds JSON knows."""
        return {
            "images": self.photographs.names,
            **self.config.setting.content,
            "pct": self.config.pct,
            "areas": self.comparison.areas(),
            "barriers": {name: profile.barrier for name, profile in self.profiles.items()},
        }


def run(config: ReportConfig) -> ReportResult:
    """Do all that a report shows.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    names, setting = named(config.methods), config.setting
    check_percents(config.pct)
    setting.check()
    pair, photographs = setting.load_pair(), setting.load_photographs()
    rankings = search_filters(setting, pair, photographs, names, random_seeds=1)
    target = restore(pair.target, photographs)
    with progress("masking", len(FRACTIONS) * len(distinct_scores(rankings))) as advance:
        [comparison] = [
            comparison
            for plane, comparison in compare_methods(
                pair, photographs, rankings, target, fractions=FRACTIONS, advance=advance
            ).items()
            if not plane
        ]
    found = {
        function: rankings[names[0]][function][0].top(fraction=config.pct / 100)
        for function in MASKS
    }
    with progress("restoring", len(MASKS) * (1 + len(STRENGTHS))) as advance:
        edited, sweeps = {}, {}
        for function, selection in found.items():
            edited[function] = restore(masked(pair, selection), photographs, MASKS)
            advance(1)
            sweeps[function] = sweep(
                pair, photographs, selection, strengths=STRENGTHS, advance=advance
            )
    measured = profiles(pair, photographs)
    return ReportResult(config, photographs, comparison, measured, found, target, edited, sweeps)

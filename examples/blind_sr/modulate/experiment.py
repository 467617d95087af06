"""Restore at many strengths of the filters found, and measure the quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from blind_sr.data.measures import psnr
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.outputs import Outputs, restore
from blind_sr.models.pairs import Pair
from blind_sr.rankings.search import find_units
from blind_sr.restore.experiment import load_selection
from blind_sr.run import Advance, progress, unseen
from blind_sr.setting import Setting, check_percents
from paramattr import Selection, modulate

STRENGTHS = tuple(k / 10 for k in range(16))
"""From the baseline's filters, over the target's at 1, to half again beyond them."""

Sweep = dict[float, Outputs]
"""Strength to outputs."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class ModulateConfig:
    """A sweep over strengths.

    Attributes:
        setting: pair, photographs, rule and machine.
        filters: `"blur"` or `"noise"`.
        pct: share of the filters, in percent.
        selection: filters found before; None finds them on the photographs.
        out: folder that keeps what was done, so that a repeated run resumes.
    """

    setting: Setting = field(default_factory=Setting)
    filters: str = "blur"
    pct: float = 1.0
    selection: Path | None = None
    out: Path = Path("modulate-output")


@dataclass(frozen=True)
class ModulateResult:
    """What a sweep gave.

    Attributes:
        config: what was run.
        photographs: what was restored.
        selection: the filters that were blended.
        outputs: of each strength.
        rows: of `psnr_rows`.
    """

    config: ModulateConfig
    photographs: Photographs
    selection: Selection
    outputs: Sweep
    rows: Rows

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        given = self.config.selection
        return {
            **self.config.setting.content,
            "images": self.photographs.names,
            "filters": self.config.filters,
            "selected": len(self.selection),
            "selection": None if given is None else str(given),
            "pct": round(100 * len(self.selection) / len(self.selection.index), 6),
            "rows": self.rows,
        }


def run(config: ModulateConfig) -> ModulateResult:
    """Find the filters, or read them, and restore at every strength.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    setting = config.setting
    check_percents(config.pct)
    setting.check()
    pair = setting.load_pair()
    chosen = None if config.selection is None else load_selection(config.selection, pair)
    photographs = setting.load_photographs()
    running = config.out / "running"
    running.mkdir(parents=True, exist_ok=True)
    if chosen is None:
        chosen = find_units(setting, pair, photographs, config.pct, running)[config.filters]
    with progress("restoring", len(STRENGTHS)) as advance:
        outputs = sweep(pair, photographs, chosen, advance=advance)
    rows = psnr_rows(outputs, photographs, config.filters)
    return ModulateResult(config, photographs, chosen, outputs, rows)


def sweep(
    pair: Pair,
    photographs: Photographs,
    selection: Selection,
    *,
    strengths: Sequence[float] = STRENGTHS,
    advance: Advance = unseen,
) -> Sweep:
    """Restore blurry and noisy inputs at each strength of the selected filters.

    Args:
        pair: baseline and target.
        photographs: what is restored.
        selection: the filters that are blended.
        strengths: 0 puts the baseline's filters in, 1 the target's.
        advance: called with 1 after each strength.

    Returns:
        Strength to outputs.
    """
    found = {}
    for strength in strengths:
        model = modulate(pair.target, pair.baseline, selection, strength)
        found[strength] = restore(model, photographs, MASKS)
        advance(1)
    return found


def psnr_rows(outputs: Sweep, photographs: Photographs, filters: str) -> Rows:
    """Give a row per strength and input: `strength`, `filters`, `input`, and the mean `psnr`."""
    return [
        {
            "strength": strength,
            "filters": filters,
            "input": condition,
            "psnr": float(torch.cat(list(map(psnr, own[condition], photographs.high))).mean()),
        }
        for condition in MASKS
        for strength, own in outputs.items()
    ]

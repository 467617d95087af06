"""Compare every method on one pair, by the curves of Fig. 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blind_sr.compare.rows import TABLE, Comparisons, Rows, result_rows
from blind_sr.data.photographs import Photographs
from blind_sr.labels import EDITS, MASKS
from blind_sr.models.outputs import Outputs, by_plane, output_measure, restore, truth_of
from blind_sr.models.pairs import Pair
from blind_sr.rankings.methods import named
from blind_sr.rankings.search import Rankings, search_filters
from blind_sr.run import Advance, progress, unseen
from blind_sr.setting import Setting
from paramattr import Comparison, compare
from paramattr.errors import ParamattrError
from paramattr.faithfulness.comparison import distinct_scores
from paramattr.faithfulness.masking import FRACTIONS, with_fractions
from paramattr.runtime.torchrun import is_joined


@dataclass(frozen=True)
class CompareConfig:
    """A comparison of methods.

    Attributes:
        setting: pair, photographs, rule and machine.
        methods: names separated by commas, or `"all"`.
        units: `"kernel"`, or `"output_channel"`, where Captum's methods take part too.
        edit: `"masking"` from the target's side, or `"insertion"` from the baseline's.
        points: shares of the filters on a curve, from 0 to 100%.
        draws: random rankings that are averaged.
        out: folder that keeps what was done, so that a repeated run resumes.
    """

    setting: Setting = field(default_factory=lambda: Setting(crop=40))
    methods: str = "all"
    units: str = "kernel"
    edit: str = "masking"
    points: int = 21
    draws: int = 1
    out: Path = Path("compare-output")


@dataclass(frozen=True)
class CompareResult:
    """What a comparison gave.

    Attributes:
        config: what was run.
        images: names of the photographs.
        comparisons: by each of `measures.PLANES`.
        rows: lists of rows by name, of `rows.result_rows`.
    """

    config: CompareConfig
    images: list[str]
    comparisons: Comparisons
    rows: dict[str, Rows]

    @property
    def content(self) -> dict[str, Any]:
        """All of it, of the kinds JSON knows."""
        names = ("draws", "units", "edit")
        return {
            "images": self.images,
            **self.config.setting.content,
            **{name: getattr(self.config, name) for name in names},
            **self.rows,
        }


def run(config: CompareConfig) -> CompareResult:
    """Rank the filters by every method, and draw the curve of every ranking.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    names, setting = named(config.methods, config.units), config.setting
    if config.edit not in EDITS:
        raise ParamattrError(f"edit {config.edit!r} is not known: expected {' or '.join(EDITS)}")
    setting.check()
    pair, photographs = setting.load_pair(), setting.load_photographs()
    running = config.out / "running"
    running.mkdir(parents=True, exist_ok=True)
    rankings = search_filters(
        setting,
        pair,
        photographs,
        names,
        units=config.units,
        random_seeds=config.draws,
        checkpoints=running,
    )
    fractions = [k / (config.points - 1) for k in range(config.points)]
    edits = len(set(fractions) | set(TABLE)) * len(distinct_scores(rankings))
    with progress("measuring", edits) as advance:
        comparisons = compare_methods(
            pair,
            photographs,
            rankings,
            restore(pair.target, photographs),
            fractions=fractions,
            edit=config.edit,
            checkpoint=running / f"curves_{config.edit}.safetensors",
            advance=advance,
        )
    return CompareResult(config, photographs.names, comparisons, result_rows(comparisons))


def compare_methods(
    pair: Pair,
    photographs: Photographs,
    rankings: Rankings,
    target: Outputs,
    *,
    fractions: Sequence[float] = FRACTIONS,
    edit: str = "masking",
    checkpoint: str | Path | None = None,
    advance: Advance = unseen,
) -> dict[str, Comparison]:
    """Draw the curve of every ranking, on blurry and on noisy input.

    The network runs once per edit and input, whatever is measured on its outputs.

    Args:
        pair: baseline and target.
        photographs: on which the outputs are compared.
        rankings: of `search.find_filters`.
        target: the target's outputs, of `outputs.restore`.
        fractions: of the filters, from 0 to 1; those of Tab. 2 are added.
        edit: `"masking"`, or `"insertion"` from the baseline's side.
        checkpoint: a file that keeps what was measured, so that a repeated run resumes.
        advance: called with 1 after each edited network.

    Returns:
        The comparison by each of `measures.PLANES`. It knows the truth: the squared error.
    """
    on_all = compare(
        pair.target,
        pair.baseline,
        rankings,
        {condition: output_measure(photographs, condition, target) for condition in MASKS},
        fractions=with_fractions(fractions, *TABLE),
        edit=edit,
        checkpoint=checkpoint,
        advance=advance,
        distributed=is_joined(),
    )
    truth = truth_of(
        photographs, restore(pair.baseline, photographs, MASKS), target, on_all.curves, edit
    )
    judged = replace(on_all, truth=truth)
    return {plane: judged.on(part) for plane, part in by_plane(photographs).items()}

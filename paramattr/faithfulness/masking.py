"""Masking and insertion curves: a model's loss as the top units of a ranking are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from paramattr.errors import UnitError
from paramattr.faithfulness.curves import Curve
from paramattr.faithfulness.memory import EDITS, Measure, Memory
from paramattr.parameters import Baseline
from paramattr.runtime.isolation import check_evaluating
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.ranks import Distributed, Ranks
from paramattr.surgery.edits import check_units
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped

__all__ = [
    "EDITS",
    "FRACTIONS",
    "Measure",
    "curves",
    "insertion_curve",
    "masking_curve",
    "with_fractions",
]

FRACTIONS = tuple(k / 20 for k in range(21))
"""From nothing to all units in steps of 5%."""


def masking_curve(
    model: nn.Module,
    baseline: Baseline,
    ranking: Scores,
    measure: Measure,
    *,
    fractions: Sequence[float] = FRACTIONS,
    show_progress: bool = False,
    distributed: Distributed = False,
) -> Curve:
    """Measure the target as its top units are replaced by the baseline's.

    Args:
        model: the target, in evaluation mode. It is edited in place and restored bit for bit
            between fractions.
        baseline: the model that the values come from, or a mapping of names to tensors.
        ranking: scores of units.
        measure: a function of the model that gives one number per sample `(B,)`.
        fractions: shares of the units, increasing, from 0 to 1; see `with_fractions`.
        show_progress: show a progress bar on stderr.
        distributed: True, or a process group: every rank of `torch.distributed` makes the same
            call, measures its share of the edited models, and gets the whole curve.

    Returns:
        The curve; its value at 0 is the unedited target's.

    Raises:
        ParamattrError: if the models, the ranking, the fractions or the measure's values do not
            fit.

    Source: Xie et al. 2021, Sec. 5.2.1 and Fig. 3.
    """
    return _only(
        curves(
            model,
            baseline,
            [ranking],
            [measure],
            fractions=fractions,
            show_progress=show_progress,
            distributed=distributed,
        )
    )


def insertion_curve(
    model: nn.Module,
    baseline: Baseline,
    ranking: Scores,
    measure: Measure,
    *,
    fractions: Sequence[float] = FRACTIONS,
    show_progress: bool = False,
    distributed: Distributed = False,
) -> Curve:
    """Measure the baseline as the target's top units are inserted.

    Arguments, result and errors are those of `masking_curve`. The value at 0 is the baseline's.
    Entries without a unit keep the baseline's values throughout.
    """
    return _only(
        curves(
            model,
            baseline,
            [ranking],
            [measure],
            fractions=fractions,
            edit="insertion",
            show_progress=show_progress,
            distributed=distributed,
        )
    )


def curves(
    model: nn.Module,
    baseline: Baseline,
    rankings: Sequence[Scores],
    measures: Sequence[Measure],
    *,
    fractions: Sequence[float] = FRACTIONS,
    edit: str = "masking",
    checkpoint: str | Path | None = None,
    show_progress: bool = False,
    advance: Callable[[float], None] = lambda amount: None,
    distributed: Distributed = False,
) -> list[list[Curve]]:
    """Measure the curves of several rankings; equal selections are measured once.

    Args:
        model: as in `masking_curve`.
        baseline: as in `masking_curve`.
        rankings: scores of units.
        measures: functions of the model.
        fractions: as in `masking_curve`.
        edit: `"masking"` or `"insertion"`.
        checkpoint: a file that keeps the measurements after each edited model; after an error or a
            kill, the same call resumes from it.
        show_progress: show a progress bar on stderr.
        advance: called with 1 after each edited model.
        distributed: as in `masking_curve`. A checkpoint is then a file per rank.

    Returns:
        A list for each ranking, with a curve for each measure.

    Raises:
        CheckpointError: if the checkpoint was made with other models, measures or data.
        RankError: if another rank fails, or measures other models, rankings or data.
        ParamattrError: as `masking_curve`.
    """
    ranks = Ranks(distributed)
    with ranks.together():
        if edit not in EDITS:
            raise UnitError(f"edit {edit!r} is not known: expected {' or '.join(map(repr, EDITS))}")
        fractions = with_fractions(fractions)
        model, baseline = unwrapped(model), unwrapped(baseline)
        check_evaluating(model)
        for ranking in rankings:
            check_units(model, ranking.index)
    with (
        ranks.together(),
        progress_bar(
            "measuring", len(rankings) * len(fractions), show=show_progress and ranks.is_first
        ) as draw,
    ):
        memory = Memory(model, baseline, measures, edit, ranks.file(checkpoint), ranks.stamp())
        edits = (
            (selection, ranking.index.fingerprint())
            for ranking in rankings
            for selection in _selections(ranking, fractions)
        )
        rows = []
        for selection, units in memory.shared(edits, ranks):
            rows.append(memory.of(selection, units))
            draw(1)
            advance(1)
    found = []
    for number in range(len(rankings)):
        columns = rows[number * len(fractions) : (number + 1) * len(fractions)]
        values = zip(*columns, strict=True)
        found.append([Curve(fractions, torch.stack(column)) for column in values])
    return found


def _selections(ranking: Scores, fractions: Sequence[float]) -> Iterator[Selection]:
    for fraction in fractions:
        size = {"fraction": fraction} if fraction else {"count": 0}
        yield ranking.top(**size, warn=False)


def with_fractions(fractions: Sequence[float], *extra: float) -> tuple[float, ...]:
    """Sort fractions and add some, such as 1% to the steps of 5%.

    Raises:
        UnitError: if there is none, or one is not a number from 0 to 1.

    >>> with_fractions((0, 0.5, 1), 0.01)
    (0.0, 0.01, 0.5, 1.0)
    """
    for fraction in (*fractions, *extra):
        if not 0 <= fraction <= 1:
            raise UnitError(f"fraction {fraction!r}: expected a share of the units from 0 to 1")
    shares = tuple(sorted({float(fraction) for fraction in (*fractions, *extra)}))
    if not shares:
        raise UnitError("there is no fraction: expected shares of the units from 0 to 1")
    return shares


def _only(rows: list[list[Curve]]) -> Curve:
    return rows[0][0]

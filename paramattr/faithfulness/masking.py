"""Faithfulness: what a model loses as the top units of a ranking are exchanged, as a curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.checkpoints import fingerprint, load_tensors, save_state_dict
from paramattr.errors import CheckpointError, ObjectiveError, UnitError
from paramattr.faithfulness.curves import Curve
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.runtime.isolation import check_evaluating, undisturbed
from paramattr.runtime.progress import progress_bar
from paramattr.surgery.edits import check_units, holding, inserted, substituted
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection

Measure = Callable[[nn.Module], Tensor]
"""A model to one number a sample `(B,)`: a loss, an error, a distance from the target's output."""

FRACTIONS = tuple(k / 20 for k in range(21))
"""From nothing to all units in steps of 5%."""

EDITS = {"masking": substituted, "insertion": inserted}


def masking_curve(
    model: nn.Module,
    baseline: Baseline,
    ranking: Scores,
    measure: Measure,
    *,
    fractions: Sequence[float] = FRACTIONS,
    show_progress: bool = False,
) -> Curve:
    """Measure the target as its top units are replaced by the baseline's.

    Args:
        model: the target, in evaluation mode. It is edited in place and restored to the bit
            between fractions.
        baseline: where the values come from, or a mapping of names to tensors.
        ranking: scores of units.
        measure: a function of the model that gives one number a sample `(B,)`.
        fractions: shares of the units, increasing, from 0 to 1; see `with_fractions`.
        show_progress: draw a bar on stderr.

    Returns:
        The curve; its value at 0 is the target's own.

    Raises:
        ParamattrError: if the models, the ranking, the fractions or what the measure gives do not
            fit.

    Source: Xie et al. 2021, Sec. 5.2.1 and Fig. 3.
    """
    return _only(
        curves(
            model, baseline, [ranking], [measure], fractions=fractions, show_progress=show_progress
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
) -> Curve:
    """Measure the baseline as the target's top units are brought in.

    Arguments, result and errors are those of `masking_curve`; the value at 0 is the baseline's,
    with the target's buffers. What has no unit stays the baseline's.
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
) -> list[list[Curve]]:
    """Draw the curves of several rankings and measures; equal selections are measured once.

    Args:
        model: as in `masking_curve`.
        baseline: as in `masking_curve`.
        rankings: scores of units.
        measures: functions of the model.
        fractions: as in `masking_curve`.
        edit: `"masking"` or `"insertion"`.
        checkpoint: a file that keeps what was measured after each edited model; a call that is
            repeated with it after an error or a kill goes on where it stopped.
        show_progress: draw a bar on stderr.
        advance: called with 1 after each edited model.

    Returns:
        A list for each ranking, with a curve for each measure.

    Raises:
        CheckpointError: if the checkpoint was made with other models, measures or data.
        ParamattrError: as `masking_curve`.
    """
    if edit not in EDITS:
        raise UnitError(f"edit {edit!r} is not known: expected {' or '.join(map(repr, EDITS))}")
    fractions = with_fractions(fractions)
    check_evaluating(model)
    for ranking in rankings:
        check_units(model, ranking.index)
    memory = _Memory(model, baseline, measures, edit, checkpoint)
    found = []
    with progress_bar("measuring", len(rankings) * len(fractions), show=show_progress) as draw:
        for ranking in rankings:
            columns, units = [], ranking.index.fingerprint()
            for fraction in fractions:
                size = {"fraction": fraction} if fraction else {"count": 0}
                top = ranking.top(**size, warn=False)
                columns.append(memory.of(top, units))
                draw(1)
                advance(1)
            values = zip(*columns, strict=True)
            found.append([Curve(fractions, torch.stack(column)) for column in values])
    return found


class _Memory:
    """What each selection's edit measured, kept in a file where one is given."""

    def __init__(
        self,
        model: nn.Module,
        baseline: Baseline,
        measures: Sequence[Measure],
        edit: str,
        checkpoint: str | Path | None,
    ) -> None:
        self.model, self.baseline, self.measures = model, baseline, measures
        self.edit, self.checkpoint = edit, checkpoint
        other = align(model, baseline)
        models = [named_parameters(model), dict(model.named_buffers()), other]
        self.settings = {"kind": "curves", "edit": edit, "models": fingerprint(models)}
        self.kept = self._named("unedited", self._measured(nullcontext()))
        if checkpoint is not None:
            # Measures cannot be read from outside: their numbers on the two models tell them by.
            self.kept |= self._named("baseline", self._measured(holding(model, other)))
        if checkpoint is not None and Path(checkpoint).exists():
            kept, settings = load_tensors(checkpoint)
            alike = all(
                torch.equal(kept.get(k, value[:0]), value) for k, value in self.kept.items()
            )
            if settings != self.settings or not alike:
                what = "measures or data" if settings == self.settings else "models or edit"
                raise CheckpointError(
                    f"checkpoint {checkpoint} was made with other {what}: give another file, or "
                    "remove this one"
                )
            self.kept = kept
        self._save()  # an unwritable place shows before the work

    def of(self, selection: Selection, units: str) -> list[Tensor]:
        """Give what every measure gives on one edit; `units` is the digest of its unit index."""
        name = f"{units} {fingerprint([{'': selection.chosen}])}"
        if self.edit == "masking" and not len(selection):
            name = "unedited"
        if f"{name} 0" not in self.kept:
            edited = EDITS[self.edit](self.model, self.baseline, selection)
            measured = self._named(name, self._measured(edited))
            for key, value in measured.items():
                if len(value) != len(self.kept[f"unedited {key.split()[-1]}"]):
                    raise ObjectiveError(
                        f"a measure gave {len(value)} numbers after another edit gave "
                        f"{len(self.kept[f'unedited {key.split()[-1]}'])}: expected one a sample, "
                        "always of the same samples"
                    )
            self.kept.update(measured)
            self._save()
        return [self.kept[f"{name} {number}"] for number in range(len(self.measures))]

    def _measured(self, edited: AbstractContextManager[Any]) -> list[Tensor]:
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with undisturbed(self.model), edited, torch.no_grad():
                return [_checked(measure(self.model)) for measure in self.measures]
        finally:
            for buffer, kept in buffers:
                buffer.copy_(kept)

    def _named(self, name: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"{name} {number}": value for number, value in enumerate(values)}

    def _save(self) -> None:
        if self.checkpoint is not None:
            save_state_dict(self.checkpoint, self.kept, self.settings)


def with_fractions(fractions: Sequence[float], *more: float) -> tuple[float, ...]:
    """Sort fractions and add some, such as 1% to the steps of 5%.

    Raises:
        UnitError: if there is none, or one is not a number from 0 to 1.

    >>> with_fractions((0, 0.5, 1), 0.01)
    (0.0, 0.01, 0.5, 1.0)
    """
    for fraction in (*fractions, *more):
        if not 0 <= fraction <= 1:
            raise UnitError(f"fraction {fraction!r}: expected a share of the units from 0 to 1")
    found = tuple(sorted({float(fraction) for fraction in (*fractions, *more)}))
    if not found:
        raise UnitError("there is no fraction: expected shares of the units from 0 to 1")
    return found


def _only(found: list[list[Curve]]) -> Curve:
    return found[0][0]


def _checked(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ObjectiveError(
            f"the measure gave {found}: expected a tensor (samples,), one number a sample; "
            "leave out the mean over samples"
        )
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise ObjectiveError(
            f"the measure is {values[bad].item()} for sample {bad}: expected a finite number"
        )
    return values.detach().double().cpu()

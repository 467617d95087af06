"""Masking, insertion and damage: edited models measured at several shares, each kept once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import CheckpointError, ObjectiveError, RankError, UnitError
from paramattr.faithfulness.curves import Bootstrap, Curve, Interval
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished
from paramattr.identity import likeness
from paramattr.parameters import Baseline, align, moving_buffers, named_parameters
from paramattr.runtime.isolation import check_evaluating, undisturbed
from paramattr.runtime.ranks import Distributed, Ranks
from paramattr.runtime.workers import progress_bar
from paramattr.surgery.edits import check_units, holding, inserted, substituted
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped

Measure = Callable[[nn.Module], Tensor]
"""A function of a model that gives one number per sample `(B,)`, such as a loss."""

EDITS = {"masking": substituted, "insertion": inserted}
"""Edits of a model: its top units become the baseline's, or all but its top units do."""


class Measurements:
    """The measurements of each selection's edit, kept in an optional file.

    Args:
        model: the target, edited in place during each measurement.
        baseline: the model that the values come from.
        measures: functions of the model, each giving one number per sample.
        edit: a key of `EDITS`.
        checkpoint: the file; with None, nothing is kept.
        stamp: what else tells the file apart, such as the rank that writes it.

    Raises:
        CheckpointError: if the file was made with other models, measures or data.
        ObjectiveError: if a measure does not give one finite number per sample.
    """

    def __init__(
        self,
        model: nn.Module,
        baseline: Baseline,
        measures: Sequence[Measure],
        edit: str,
        checkpoint: str | Path | None,
        stamp: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.baseline, self.measures, self.edit = model, baseline, measures, edit
        other = align(model, baseline) | moving_buffers(model, baseline)
        self.kept = self._named("unedited", self.measured(nullcontext()))
        stamp = dict(stamp or {})
        if checkpoint is not None:
            models = [named_parameters(model), dict(model.named_buffers()), other]
            stamp |= {"kind": "curves", "edit": edit, "models": fingerprint(models)}
            # Measures cannot be compared as code, so their values on the two models identify them.
            self.kept |= self._named("baseline", self.measured(holding(model, other)))
        self.file = Unfinished(checkpoint, stamp)
        if self.file.tensors:
            tensors = self.file.tensors
            alike = all(torch.equal(tensors.get(k, v[:0]), v) for k, v in self.kept.items())
            if not alike:
                raise CheckpointError(
                    f"checkpoint {checkpoint} was made with other measures or data: give another "
                    "file, or remove this one"
                )
            self._check(tensors)
            self.kept = dict(tensors)
        self.file.save(self.kept)

    def shared(
        self, edits: Iterable[tuple[Selection, str]], ranks: Ranks
    ) -> Iterator[tuple[Selection, str]]:
        """Give the edits on, after each rank has measured its share of them.

        Args:
            edits: selections, each with the digest of its unit index.
            ranks: the processes; one alone measures nothing ahead.

        Raises:
            RankError: if another rank fails, or measures other models, rankings or data.
        """
        if ranks.size == 1:
            yield from edits
            return
        every = list(edits)
        names = list(dict.fromkeys(self._name(*one) for one in every))
        ranks.compare("the settings", likeness(self.edit))
        ranks.compare("the rankings", fingerprint([{name: torch.empty(0) for name in names}]))
        mine = set(names[ranks.rank :: ranks.size])
        for selection, units in every:
            if self._name(selection, units) in mine:
                ranks.check()
                self.of(selection, units)
        ranks.meet()
        of_ranks = ranks.gathered(self.kept)
        for other, kept in enumerate(of_ranks):
            for name in self._named("unedited", self.measures):
                own = self.kept[name]
                if own.shape != kept[name].shape or not torch.allclose(own, kept[name], rtol=1e-4):
                    raise RankError(
                        f"a measure of the unedited model differs between rank {ranks.rank} and "
                        f"rank {other}: expected the same models, measures and data on every rank; "
                        "give shuffles the same seed"
                    )
        for kept in of_ranks:
            self.kept = {**kept, **self.kept}
        yield from every

    def of(self, selection: Selection, units: str) -> list[Tensor]:
        """Return every measure's values on one edit; `units` is the digest of its unit index."""
        name = self._name(selection, units)
        if f"{name} 0" not in self.kept:
            edited = EDITS[self.edit](self.model, self.baseline, selection)
            measured = self._named(name, self.measured(edited))
            for key, value in measured.items():
                samples = len(self.kept[f"unedited {key.split()[-1]}"])
                if len(value) != samples:
                    raise ObjectiveError(
                        f"a measure gave {len(value)} numbers on this edit and {samples} on the "
                        "unedited model: expected one number per sample, always of the same samples"
                    )
            self.kept.update(measured)
            self.file.save(self.kept)
        return [self.kept[f"{name} {number}"] for number in range(len(self.measures))]

    def measured(self, edited: AbstractContextManager[Any]) -> list[Tensor]:
        """Give what every measure gives inside an edit; nothing is kept."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with undisturbed(self.model), edited, torch.no_grad():
                return [_checked(measure(self.model)) for measure in self.measures]
        finally:
            for buffer, copy in buffers:
                buffer.copy_(copy)

    def _check(self, tensors: dict[str, Tensor]) -> None:
        for key, value in tensors.items():
            like = self.kept.get(f"unedited {key.split(' ')[-1]}")
            self.file.check({key: value}, {} if like is None else {key: like})

    def _name(self, selection: Selection, units: str) -> str:
        if self.edit == "masking" and not len(selection):
            return "unedited"
        return f"{units} {fingerprint([{'': selection.chosen}])}"

    def _named(self, name: str, values: Sequence[Any]) -> dict[str, Any]:
        return {f"{name} {number}": value for number, value in enumerate(values)}


def _checked(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ObjectiveError(
            f"the measure gave {shape}: expected a tensor (samples,), one number per sample; "
            "leave out the mean over samples"
        )
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise ObjectiveError(
            f"the measure is {values[bad].item()} for sample {bad}: expected a finite number"
        )
    return values.detach().double().cpu()


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
        kept = Measurements(model, baseline, measures, edit, ranks.file(checkpoint), ranks.stamp())
        edits = (
            (selection, ranking.index.fingerprint())
            for ranking in rankings
            for selection in _selections(ranking, fractions)
        )
        rows = []
        for selection, units in kept.shared(edits, ranks):
            rows.append(kept.of(selection, units))
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
    own = Measurements(model, baseline, list(truth.values()), "masking", None)
    other = align(model, baseline) | moving_buffers(model, baseline)
    of_baseline = own.measured(holding(model, other))
    of_target = [own.kept[f"unedited {number}"] for number in range(len(truth))]
    return {name: Ends(*pair) for name, *pair in zip(truth, of_target, of_baseline, strict=True)}

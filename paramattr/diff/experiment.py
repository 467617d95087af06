"""Find the units that a change lies in, and mask them: settings in, a typed result out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from paramattr.attribution.absolute_change import absolute_change
from paramattr.attribution.integrated_gradients import FAIG
from paramattr.bezier import BezierPath
from paramattr.diff.config import Config
from paramattr.diff.distance import Distance as Distance
from paramattr.diff.distance import distance_of
from paramattr.diff.material import Material, dtype_of
from paramattr.diff.measuring import Loss, Worth, losses, worths
from paramattr.diff.texts import ALL
from paramattr.errors import UnitError, warn
from paramattr.integration.ends import path_between
from paramattr.integration.estimate import Estimate
from paramattr.integration.profile import PathProfile
from paramattr.parameters import Baseline
from paramattr.runtime.compute import Compute
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.ranks import Distributed, Ranks
from paramattr.units.designs import against_rest
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection

if TYPE_CHECKING:
    from paramattr.report.page import Page

LAYER = "layer"
KINDS = (LAYER, "attention_head", "neuron")
"""The kinds of unit where none is asked for."""
POINTS = 5
"""Places on the path where the objective is evaluated."""
PROGRESS_FILE = "progress.safetensors"
"""Keeps the sums in the folder of results, so that a run that was killed resumes."""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        distance: between the models.
        counts: samples by condition.
        units: how many of each kind.
        masked: how many are masked, of each kind but layers where there is another.
        gradients: how many gradients are taken.
        passes: over all samples, forward alone.
        notes: what is not attributed.
        memory: what the gradients take, where it was asked for.
    """

    distance: Distance
    counts: dict[str, int]
    units: dict[str, int]
    masked: dict[str, int]
    gradients: int
    passes: int
    notes: tuple[str, ...]
    memory: Estimate | None = None


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        plan: what was done.
        target: what the tuned model is worth on each condition.
        baseline: what the base is worth.
        profile: the objective along the path, over all samples.
        scores: kind of unit, then condition, to scores; the layers' are always there.
        rankings: likewise. Where there are several conditions, each is contrasted with the others,
            and `"all"` is the mean over all samples.
        selections: likewise: the top share, of scores above zero alone.
        change: each layer's share of the summed magnitude of the change.
        losses: of each kind, condition sought and condition measured.
        notes: what is not attributed, and what was warned of.
    """

    plan: Plan
    target: dict[str, Worth]
    baseline: dict[str, Worth]
    profile: PathProfile
    scores: dict[str, dict[str, Scores]]
    rankings: dict[str, dict[str, Scores]]
    selections: dict[str, dict[str, Selection]]
    change: dict[str, float]
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]

    def page(self) -> Page:
        """Give the report, which `paramattr.report.write_report` writes."""
        from paramattr.diff.page import page_of

        return page_of(self)


def plan(config: Config, material: Material, *, memory: bool = False) -> Plan:
    """Say what a run would do, without a gradient but one, of a sample, for its memory.

    Args:
        config: the settings.
        material: the models and the data.
        memory: whether to estimate the memory of the gradients.

    Raises:
        ParamattrError: if the models do not fit together or have no such units.
    """
    dtype_of(config.dtype)
    with _noted(material.notes) as notes:
        indexes = _indexes(config, material)
        first = next(iter(material.conditions.values()))[:1]
        _faig(config, material).path_profile(first, n_points=3)  # what is wrong shows now
        distance = distance_of(material)
        kinds_of_unit = list(dict.fromkeys([*indexes, LAYER]))
        needed = None
        if memory:
            needed = _faig(config, material).estimate(material.conditions, reducer=kinds_of_unit)
    samples, conditions = sum(material.counts.values()), len(material.counts)
    # As many random units of the same layers: layers have no such control.
    measured = [name for name in indexes if name != LAYER] or list(indexes)
    kinds = len(measured) * (conditions + (conditions > 1))
    return Plan(
        distance,
        dict(material.counts),
        {name: len(index) for name, index in indexes.items()},
        {name: _share(config, len(indexes[name])) for name in measured},
        samples * config.steps,
        2 + POINTS + kinds * (1 + config.draws),
        tuple(notes),
        needed,
    )


def run(
    config: Config,
    material: Material,
    *,
    show_progress: bool = False,
    distributed: Distributed = False,
) -> Result:
    """Score the units on every condition, contrast, mask the top share, and measure.

    Args:
        config: the settings.
        material: the models and the data.
        show_progress: draw bars on stderr.
        distributed: as in `FAIG.score`: the ranks share the samples.

    Raises:
        ParamattrError: what `FAIG.score` raises.
    """
    ranks = Ranks(distributed)
    with ranks.together():
        return _run(config, material, ranks, show_progress and ranks.is_first, distributed)


def _run(
    config: Config,
    material: Material,
    ranks: Ranks,
    show_progress: bool,
    distributed: Distributed,
) -> Result:
    planned = plan(config, material)
    with _noted(planned.notes) as notes:
        target = worths(material.target, material, ranks)
        baseline = worths(material.baseline, material, ranks)
        faig = _faig(config, material)
        everything = [batch for batches in material.conditions.values() for batch in batches]
        options: dict[str, Any] = {"show_progress": show_progress, "distributed": distributed}
        profile = faig.path_profile(everything, POINTS, **options)
        scores = _scores(config, material, faig, list(planned.units), options)
    rankings = {
        name: _by(config.rank, _rankings(own, material.counts)) for name, own in scores.items()
    }
    selections = {
        name: {key: _top(own, _share(config, count)) for key, own in rankings[name].items()}
        for name, count in planned.units.items()
    }
    measured = {name: selections[name] for name in planned.masked}
    masked = _mask(config, material, measured, target, show_progress, ranks)
    change = absolute_change(material.target, material.baseline, reducer=LAYER).by_layer()
    total = sum(change.values())
    return Result(
        planned,
        target,
        baseline,
        profile,
        scores,
        rankings,
        selections,
        {layer: value / total for layer, value in change.items()},
        tuple(masked),
        tuple(notes),
    )


def _faig(config: Config, material: Material) -> FAIG:
    return FAIG(
        material.target,
        material.baseline,
        objective=material.objective,
        path=None if config.curve is None else BezierPath.load(config.curve),
        dtype=dtype_of(config.dtype),
    )


def _toward(config: Config, material: Material) -> Baseline:
    """Give what the masked units are exchanged for: the base, or a nearer point of the path."""
    if config.at == 1:
        return material.baseline
    given = None if config.curve is None else BezierPath.load(config.curve)
    path = path_between(material.target, material.baseline, given, Compute())
    return path.evaluate(config.at)


def _indexes(config: Config, material: Material) -> dict[str, UnitIndex]:
    if config.units:
        return {name: UnitIndex.of(material.target, name) for name in config.units}
    found = {}
    for name in KINDS:
        try:
            found[name] = UnitIndex.of(material.target, name)
        except UnitError:  # noqa: PERF203 (three kinds at most)
            warn(f"The model has no unit of kind {name!r} that is known: it is left out.")
    return found


def _scores(
    config: Config, material: Material, faig: FAIG, units: list[str], options: dict[str, Any]
) -> dict[str, dict[str, Scores]]:
    kinds = list(dict.fromkeys([*units, LAYER]))
    found: dict[str, dict[str, Scores]] = faig.score(
        material.conditions,
        reducer=kinds,
        n_steps=config.steps,
        checkpoint=None if config.out is None else config.out / PROGRESS_FILE,
        **options,
    )
    return {kind: {name: own[kind] for name, own in found.items()} for kind in kinds}


def _rankings(scores: dict[str, Scores], counts: dict[str, int]) -> dict[str, Scores]:
    if len(scores) == 1:
        return dict(scores)
    parts = [own * (counts[name] / sum(counts.values())) for name, own in scores.items()]
    found = {ALL: reduce(add, parts)}
    found |= against_rest(scores)
    return found


def _by(rank: str, rankings: dict[str, Scores]) -> dict[str, Scores]:
    return {name: one.by(rank) for name, one in rankings.items()}


def _share(config: Config, units: int) -> int:
    return max(1, round(config.share * units))


def _top(scores: Scores, count: int) -> Selection:
    return scores.top(count=min(count, int((scores.values > 0).sum())), warn=False)


def _mask(
    config: Config,
    material: Material,
    selections: dict[str, dict[str, Selection]],
    own: dict[str, Worth],
    show_progress: bool,
    ranks: Ranks,
) -> list[Loss]:
    rows: list[Loss] = []
    toward = _toward(config, material)
    total = sum(len(found) for found in selections.values())
    with progress_bar("masking", total, show=show_progress) as advance:
        for units, found in selections.items():
            for sought, selection in found.items():
                named: dict[str, Any] = {"units": units, "sought": sought}
                if len(selection):
                    rows += losses(
                        material,
                        toward,
                        selection,
                        own,
                        draws=config.draws,
                        ranks=ranks,
                        **named,
                    )
                advance(1)
    return rows


@contextmanager
def _noted(before: tuple[str, ...]) -> Iterator[list[str]]:
    """Collect what is warned of as notes, after those that there are."""
    notes = list(before)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield notes
        finally:
            for warning in caught:
                if issubclass(warning.category, UserWarning):
                    said = str(warning.message)
                    notes += [] if said in notes else [said]

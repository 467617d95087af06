"""Find the units that a change lies in, and mask them: settings in, a typed result out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

from paramattr.commands.diff.config import Config
from paramattr.commands.diff.material import Material, dtype_of
from paramattr.commands.diff.measuring import (
    LADDER,
    Look,
    Loss,
    Nodes,
    Residuals,
    Worth,
    distance_of,
    is_small,
    losses,
    settled,
    warning,
    worths,
)
from paramattr.commands.diff.measuring import Distance as Distance
from paramattr.commands.diff.names import ALL, spoken
from paramattr.commands.diff.result import LAYER, Plan, Result
from paramattr.curves import BezierPath
from paramattr.errors import UnitError, warn
from paramattr.faig import FAIG
from paramattr.files.reading import load_tensors
from paramattr.integration.batches import Batch
from paramattr.integration.integrand import path_between
from paramattr.methods.absolute_change import absolute_change
from paramattr.objectives import is_loss
from paramattr.parameters import Baseline
from paramattr.runtime.compute import Compute
from paramattr.runtime.ranks import Distributed, Ranks
from paramattr.runtime.workers import progress_bar
from paramattr.scoring.state import LOOKED_AT
from paramattr.units.contrast import against_rest
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection

KINDS = (LAYER, "attention_head", "neuron")
"""The kinds of unit where none is asked for."""
POINTS = 5
"""Places on the path where the objective is evaluated."""
PROGRESS_FILE = "progress.safetensors"
"""Keeps the sums in the folder of results, so that a run that was killed resumes."""


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
    fewest, most = (
        _gradients(material, Nodes(ladder[-1], tuple(Look(n, {}) for n in ladder)))
        if config.steps is None
        else samples * config.steps
        for ladder in (LADDER[:1], LADDER)
    )
    return Plan(
        distance=distance,
        counts=dict(material.counts),
        units={name: len(index) for name, index in indexes.items()},
        masked={name: _share(config, len(indexes[name])) for name in measured},
        objective=material.measured_by,
        gradients=fewest,
        most_gradients=most,
        passes=2 + POINTS + kinds * (1 + config.draws),
        notes=tuple(notes),
        memory=needed,
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
        distributed: whether the ranks share the samples, as `FAIG.score` takes it.

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
        nodes = _nodes(config, material, ranks)
        scores = _scores(config, material, faig, list(planned.units), nodes.taken, options)
        residual = {name: one.residual for name, one in scores[LAYER].items()}
        if said := warning(nodes, residual):
            warn(said)
    gains = _gains(material, target, baseline)
    notes += _worse(gains, target, baseline, notes)
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
    total, gradients = sum(change.values()), _gradients(material, nodes)
    return Result(
        plan=replace(planned, gradients=gradients, most_gradients=gradients),
        nodes=nodes,
        target=target,
        baseline=baseline,
        gains=gains,
        profile=profile,
        scores=scores,
        rankings=rankings,
        selections=selections,
        change={layer: value / total for layer, value in change.items()},
        losses=tuple(masked),
        notes=tuple(notes),
    )


def _faig(config: Config, material: Material) -> FAIG:
    return FAIG(
        material.target,
        material.baseline,
        objective=material.objective,
        path=None if config.curve is None else BezierPath.load(config.curve),
        dtype=dtype_of(config.dtype),
    )


def _nodes(config: Config, material: Material, ranks: Ranks) -> Nodes:
    """Find how many nodes it takes, on the first samples of each condition."""
    if config.steps is not None:
        return Nodes(config.steps)
    first = {name: batches[:1] for name, batches in material.conditions.items()}
    alone = ranks.processes == 1
    faig = _faig(config, material)

    def look(nodes: int) -> Residuals:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run on all samples warns of the same
            found = faig.score(
                first,
                reducer=LAYER,
                n_steps=nodes,
                max_samples=LOOKED_AT if alone else None,
                distributed=not alone,
            )
        return {name: scores.residual for name, scores in found.items()}

    kept = set(ranks.gathered(_kept(config, ranks)))
    return settled(look, kept.pop() if len(kept) == 1 else None)


def _kept(config: Config, ranks: Ranks) -> int | None:
    """Read how many nodes the run that is resumed has taken: it can take no others."""
    file = None if config.out is None else ranks.file(config.out / PROGRESS_FILE)
    if file is None or not file.is_file():
        return None
    rule = load_tensors(file)[1].get("rule")
    if isinstance(rule, list) and len(rule) == 3 and isinstance(rule[1], list):
        return len(rule[1])
    return None  # what else it may be is refused by the run


def _gradients(material: Material, nodes: Nodes) -> int:
    looked_at = 0
    for batches in material.conditions.values():
        looked_at += min(LOOKED_AT, len(Batch.from_loader(batches[0], model=material.target)))
    samples = sum(material.counts.values())
    return samples * nodes.taken + looked_at * sum(look.nodes for look in nodes.looks)


def _gains(material: Material, tuned: dict[str, Worth], base: dict[str, Worth]) -> dict[str, float]:
    sign = 1 if is_loss(material.objective) else -1
    return {name: sign * (base[name].objective - tuned[name].objective) for name in tuned}


def _worse(
    gains: dict[str, float], tuned: dict[str, Worth], base: dict[str, Worth], said: list[str]
) -> list[str]:
    """Say where the tuned model is worse than the base, unless the engine did."""
    worse = [
        name
        for name, gain in gains.items()
        if gain < 0 and not is_small(tuned[name].objective, base[name].objective)
    ]
    if not worse or any("swapped" in note for note in said):
        return []
    on = "" if len(gains) == 1 else f" on {', '.join(worse)}"
    return [
        f"The tuned model is worse than the base{on}."
        + (" Are they swapped? BASE comes first." if len(worse) == len(gains) else "")
    ]


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
    config: Config,
    material: Material,
    faig: FAIG,
    units: list[str],
    nodes: int,
    options: dict[str, Any],
) -> dict[str, dict[str, Scores]]:
    kinds = list(dict.fromkeys([*units, LAYER]))
    found: dict[str, dict[str, Scores]] = faig.score(
        material.conditions,
        reducer=kinds,
        n_steps=nodes,
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
            for caught_one in caught:
                if issubclass(caught_one.category, UserWarning):
                    said = spoken(str(caught_one.message))
                    notes += [] if said in notes else [said]

"""Scoring: integrate for each sample, and reduce its attributions to units at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from paramattr.identity import likeness, stamped
from paramattr.integration.batches import Batch
from paramattr.integration.integrand import Attributions
from paramattr.integration.partitions import reduced_samples, split
from paramattr.integration.path_integral import Integral, PathIntegral, Spent
from paramattr.integration.plan import Plan
from paramattr.integration.preflight import Preflight
from paramattr.integration.reduction import Reduced
from paramattr.integration.request import Request
from paramattr.integration.settling import GROUPS, Settling
from paramattr.integration.streaming import Work, stream
from paramattr.integration.sums import Missed, Sample, totalled
from paramattr.integration.unit_integral import UnitIntegral
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.units.scores import Cost, Scores

Function = Callable[[Attributions], Attributions]
"""A function of one sample's attributions, reduced in their place; it may overwrite them."""

MANY = 64
"""The most samples that share the points of the path."""


class Scored(NamedTuple):
    """The result of a pass over the samples.

    Attributes:
        scores: condition, then reducer, to scores.
        spent: the cost of each sample, if the integral reports it.
        plan: the order of the gradients, where samples are reduced as gradients come.
    """

    scores: dict[str, dict[str, Scores]]
    spent: tuple[Spent, ...]
    plan: Plan | None = None


def score_samples(
    integral: Integral,
    request: Request,
    *,
    function: Function,
    preflight: Preflight,
    at_once: int = 1,
    workers: int = 1,
    memory: int | None = None,
    checkpoint: str | Path | None = None,
    settling: Settling | None = None,
    show_progress: bool = False,
    ranks: Ranks = ALONE,
    partitions: int = 1,
    work: Work | None = None,
) -> Scored:
    """Integrate for each sample of a request, and average the units' scores.

    Args:
        integral: the integral over samples.
        request: the conditions and units.
        function: applied to each sample's attributions; its state identifies checkpoints.
        preflight: the checks on the first batch.
        at_once: samples that are differentiated together.
        workers: threads that process samples in parallel.
        memory: bytes that points of the path and sums of gradients may take (see `Plan`).
        checkpoint: a file that an interrupted run resumes from.
        settling: when enough samples were drawn; after all of them by default.
        show_progress: show a progress bar on stderr.
        ranks: the processes that share the samples; what was spent is then listed rank by rank.
        partitions: passes over the model per sample, each with the gradients of one part of it.
        work: a batch to its samples, in place of the integral's own; `function` and `partitions`
            are then its concern.

    Raises:
        ParamattrError: as `stream`; errors of the objective pass through.
    """
    integrand, spent = integral.integrand, list[Spent]()
    costs, started = dict.fromkeys(request.loaders, Cost()), time.perf_counter()
    model = integrand.objective.model.model
    how = [getattr(integral, name, None) for name in ("rule", "adaptive", "strata")]
    integrand.compare(ranks, how, at_once if ranks.are_in_step else None)
    if ranks.processes > 1:
        ranks.compare("the function", likeness(function))

    def check(condition: str, batch: Batch) -> Batch:
        batch = integrand.referenced(batch, at_once)
        if not preflight(batch, condition, at_once) and len(batch) > 1:
            integrand.values(0.0, batch, 1)  # errors surface before the work
        return batch

    def reduced(attributions: Attributions) -> dict[str, Reduced]:
        return request.reduced(function(attributions))

    def of_pieces(pieces: Sequence[Integral], part: Batch) -> Iterator[Sample]:
        if id(pieces[0]) in of_units:
            together = of_units[id(pieces[0])].samples(part)
            found: Iterator[Sample] = (Sample(units, values) for units, values in together)
        else:
            found = reduced_samples(pieces, part, reduced, at_once)
        return totalled(integral, found, part) if function is as_they_are else found

    def watch(condition: str, number: int, sample: Sample) -> Missed | None:
        if sample.spent is not None:
            spent.append(sample.spent)
        costs[condition] = costs[condition].plus(_gradients(sample))
        return preflight.watch(condition, number, sample)

    copies = replicas(integral, workers)
    of_units: dict[int, UnitIntegral] = {}
    if partitions == at_once == 1 and work is None and function is as_they_are:
        of_units = _by_units(copies, request, memory)
    if len(copies) == 1 and work is None:
        preflight.ride(_shared_nodes(integral))
    together = max([at_once, *(one.planned(MANY).samples for one in of_units.values())])
    settings = {} if checkpoint is None else _settings(integral, function, settling)
    scores = stream(
        [work or partial(of_pieces, split(one, partitions)) for one in copies],
        request.loaders,
        request.indexes,
        read=partial(Batch.from_loader, device=integrand.device, model=model),
        check=check,
        watch=watch,
        at_once=together,
        checkpoint=checkpoint,
        settings=settings,
        settling=settling,
        show_progress=show_progress,
        ranks=ranks,
    )
    preflight.conclude()
    _note(scores, costs, time.perf_counter() - started, settling)
    plan = next((one.plan for one in of_units.values()), None)
    every = tuple(one for of_rank in ranks.gathered(spent) for one in of_rank)
    return Scored(scores, every, plan)


def _settings(integral: Integral, function: Function, settling: Settling | None) -> dict[str, Any]:
    """Describe a run, to tell its checkpoint from others."""
    settings = {**integral.settings(), **stamped("function", function)}
    if settling is not None and settling.until is not None:
        settings |= {"groups": GROUPS, "until": settling.until, "fraction": settling.fraction}
    return settings


def _shared_nodes(integral: Integral) -> list[float]:
    """List the nodes at which a run takes the gradients of all that moves, for every sample."""
    if not isinstance(integral, PathIntegral) or not integral.has_fixed_nodes:
        return []
    if not integral.reports_all:
        return []
    return [node.alpha for stretch in integral.stretches for node in stretch.nodes]


def _by_units(
    copies: Sequence[Integral], request: Request, memory: int | None
) -> dict[int, UnitIntegral]:
    """Take parameters one after the other, where that can be done."""
    reduction = request.reduction(copies[0].integrand.device)
    share = None if memory is None else memory // len(copies)
    return {
        id(one): UnitIntegral(one, reduction, share)
        for one in copies
        if isinstance(one, PathIntegral) and UnitIntegral.fits(one)
    }


def _note(
    scores: Mapping[str, Mapping[str, Scores]],
    costs: Mapping[str, Cost],
    seconds: float,
    settling: Settling | None,
) -> None:
    """Write on scores what they took, and how settled they are."""
    for condition, by_reducer in scores.items():
        for reducer, one in by_reducer.items():
            one.spent = costs[condition]._replace(seconds=seconds)
            if settling is not None and condition in settling.agreements:
                one.agreement = settling.agreements[condition][reducer]


def _gradients(sample: Sample) -> int:
    if sample.spent is not None:
        return sample.spent.evaluations
    return 0 if sample.values is None else len(sample.values.alphas)


def as_they_are(attributions: Attributions) -> Attributions:
    """Return the attributions unchanged."""
    return attributions


def replicas(integral: Integral, workers: int) -> Sequence[Integral]:
    """Copy the integral for each worker; a single worker gets the integral itself.

    Raises:
        ModelError: if the model cannot be copied.
    """
    if isinstance(integral, PathIntegral) and workers > 1:
        return [integral.replica() for _ in range(workers)]
    return [integral]

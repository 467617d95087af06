"""Score samples by an integral: their attributions, one by one, reduced to units as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from paramattr.integration.batches import Batch
from paramattr.integration.integrand import Attributions
from paramattr.integration.path_integral import Integral, PathIntegral, Spent
from paramattr.integration.preflight import Preflight
from paramattr.integration.request import Request
from paramattr.integration.streaming import stream
from paramattr.integration.sums import Sample
from paramattr.units.scores import Scores

Function = Callable[[Attributions], Attributions]
"""One sample's attributions to what is reduced in their place; it may overwrite them."""


class Scored(NamedTuple):
    """What a pass over the samples came to.

    Attributes:
        scores: condition, then reducer, to scores.
        spent: of each sample, where an integral says what it took.
    """

    scores: dict[str, dict[str, Scores]]
    spent: tuple[Spent, ...]


def score_samples(
    integral: Integral,
    request: Request,
    *,
    function: Function,
    preflight: Preflight,
    at_once: int = 1,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    show_progress: bool = False,
) -> Scored:
    """Integrate for each sample of a request, and average what each unit gets.

    Args:
        integral: over one sample or several.
        request: the conditions and units.
        function: of each sample's attributions; its name tells checkpoints apart.
        preflight: the look at the first batch.
        at_once: samples that are differentiated together.
        workers: threads that take samples side by side.
        checkpoint: a file that an interrupted run resumes from.
        show_progress: draw a bar on stderr.

    Raises:
        ParamattrError: as `stream`, and what the objective raises.
    """
    integrand, spent = integral.integrand, list[Spent]()
    model = integrand.objective.model.model

    def check(condition: str, batch: Batch) -> Batch:
        batch = integrand.referenced(batch, at_once)
        if not preflight.is_first(condition) and len(batch) > 1:
            integrand.values(0.0, batch, 1)  # what is wrong shows before the work
        preflight(batch, condition, at_once)
        return batch

    def work(one: Integral, part: Batch) -> Iterator[Sample]:
        # Nothing here holds one sample's attributions while the next one's are made.
        for attributions, _, values, taken in one.samples(part, whole=False, at_once=at_once):
            yield Sample(request.reduced(function(attributions)), values, taken)
            del attributions

    def watch(condition: str, sample: Sample) -> None:
        if sample.values is not None:
            preflight.watch(condition, sample.values)
        if sample.spent is not None:
            spent.append(sample.spent)

    settings: dict[str, Any] = {}
    if checkpoint is not None:
        settings = {**integral.settings(), "function": function.__name__}
    scores = stream(
        [partial(work, one) for one in replicas(integral, workers)],
        request.loaders,
        request.indexes,
        read=partial(Batch.from_loader, device=integrand.device, model=model),
        check=check,
        watch=watch,
        at_once=at_once,
        checkpoint=checkpoint,
        settings=settings,
        show_progress=show_progress,
    )
    preflight.conclude()
    return Scored(scores, tuple(spent))


def as_they_are(attributions: Attributions) -> Attributions:
    """Reduce the attributions themselves."""
    return attributions


def replicas(integral: Integral, workers: int) -> Sequence[Integral]:
    """Give each worker an integral of its own; the same one, where there is one worker.

    Raises:
        ModelError: if the model cannot be copied.
    """
    if isinstance(integral, PathIntegral) and workers > 1:
        return [integral.replica() for _ in range(workers)]
    return [integral]

"""The substitution effect: each unit exchanged alone, and the objective measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import DataError, UnitError, an, warn
from paramattr.files.reading import fingerprint
from paramattr.identity import identity
from paramattr.integration.accumulation import Reduced
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrand import Integrand, path_between
from paramattr.integration.model import FunctionalModel
from paramattr.methods.gradient_times_change import gradient_times_change
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import Baseline
from paramattr.runtime.compute import Compute, check_count
from paramattr.runtime.isolation import check_evaluating, undisturbed
from paramattr.runtime.ranks import Distributed, Ranks
from paramattr.scoring.readings import check_readings
from paramattr.scoring.request import Loaders, Reducers, Request
from paramattr.scoring.run import Options, stream
from paramattr.scoring.state import Sample
from paramattr.units.index import UnitIndex, check_same_units
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped_pair

WHOLE = 2**31
"""More samples than a batch holds: a batch runs together."""


def substitution_effect(
    target: nn.Module,
    baseline: Baseline,
    loader: Loaders,
    reducer: Reducers = "layer",
    *,
    objective: Objective = squared_error,
    candidates: Selection | Scores | None = None,
    budget: int | None = None,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
    checkpoint: str | Path | None = None,
    strict: bool = True,
    distributed: Distributed = False,
) -> Any:
    """Score each unit by what exchanging it alone does to the objective.

        E_u(x) = L(target with the baseline's u, x) - L(target, x)
        S_u    = 1/|X| Σ_{x in X} |E_u(x)|

    It is exact: no gradient and no path, one evaluation per unit and sample beside the target's
    own. So it is the reference for layers, heads and ranks; for many units, exchange the best
    candidates of a cheap ranking alone. The effects of single units do not add up to that of all.

    Args:
        target: the model that was fine-tuned, in evaluation mode.
        baseline: where the exchanged values come from, or a mapping of names to tensors.
        loader: batches, or a mapping of conditions to them, as in `FAIG.score`.
        reducer: the units, as in `FAIG.score`; or a list.
        objective: `(output, targets)` to a tensor `(B,)`.
        candidates: the units to exchange: a selection, or a ranking with `budget`. All by default.
        budget: how many units to exchange, the best of `candidates`; without `candidates` the best
            by one gradient per sample in the middle between the models.
        internal_batch_size: most samples of a batch that run together; all of it by default.
        show_progress: draw a bar on stderr.
        checkpoint: as in `FAIG.score`.
        strict: as in `FAIG`.
        distributed: as in `FAIG.score`.

    Returns:
        Scores, as `FAIG.score` gives them: `values` is the mean of |E|, `signed` the mean of E. A
        positive sign says that the unit's change lowered the objective. Units that were no
        candidates have the value 0, and NaN as sign and error.

    Warns:
        UserWarning: saying how many units were not exchanged.

    Raises:
        UnitError: for candidates of other units, or a budget that does not fit them.
        ParamattrError: what `FAIG.score` raises.

    Source: activation patching's counterpart for parameters; the exact effect that attribution
    patching approximates (Nanda 2023; Syed et al. 2023).

    >>> target, baseline = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    >>> for model, weight in ((target, 1.0), (baseline, 3.0)):
    ...     _ = torch.nn.init.constant_(model.weight, weight), torch.nn.init.zeros_(model.bias)
    >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
    >>> substitution_effect(target, baseline, [batch], "scalar").signed.tolist()
    [8.0, 0.0]
    """
    compute, ranks = Compute(), Ranks(distributed)
    with ranks.together():
        check_callable(objective)
        check_count("internal_batch_size", internal_batch_size, ", or None")
        model, other = unwrapped_pair(target, baseline)
        check_evaluating(model)
        if checkpoint is not None:
            identity(objective, "the objective")  # before a budget's gradients
        request = Request(model, loader, reducer)
        if budget is not None and candidates is None:
            candidates = _cheap(
                model, other, loader, request, reducer, objective, strict, distributed
            )
        chosen = _chosen(request, candidates, budget)
    with ranks.together(), undisturbed(model, compute.device):
        path = path_between(model, other, None, compute, strict=strict, quiet=False)
        function = FunctionalModel(model, compute, moving=path.buffers)
        integrand = Integrand(ObjectiveOfParameters(function, objective), path, tuple(path.start))
        integrand.compare(ranks, None if chosen is None else chosen.chosen)
        exchanges = {
            name: _Exchange(integrand, index, chosen) for name, index in request.indexes.items()
        }
        looked_at: set[str] = set()

        def check(condition: str, batch: Batch) -> Batch:
            batch = integrand.referenced(batch, internal_batch_size or len(batch))
            if condition not in looked_at:
                check_readings(integrand, batch)
                looked_at.add(condition)
            return batch

        settings: dict[str, Any] = {}
        if checkpoint is not None:
            own = torch.ones(1, dtype=torch.bool) if chosen is None else chosen.chosen
            settings = integrand.settings()
            settings |= {"method": "substitution", "candidates": fingerprint([{"": own}])}
        scores = stream(
            [partial(_samples, exchanges)],
            request.loaders,
            request.indexes,
            Options(checkpoint=checkpoint, show_progress=show_progress, ranks=ranks),
            read=partial(Batch.from_loader, device=integrand.device, model=model),
            check=check,
            at_once=internal_batch_size or WHOLE,
            settings=settings,
        ).scores()
    for of_units in scores.values():
        for name, of_reducer in of_units.items():
            # Only now: a checkpoint holds finite sums alone.
            for known in (of_reducer.signed, of_reducer.standard_error, of_reducer.signed_error):
                known[exchanges[name].unknown] = torch.nan
    return request.answer(scores)


class _Exchange:
    """The units of one reducer, exchanged one by one."""

    def __init__(self, integrand: Integrand, index: UnitIndex, chosen: Selection | None) -> None:
        self.integrand, self.units = integrand, len(index)
        self.start, self.end = (integrand.path.evaluate(alpha) for alpha in (0.0, 1.0))
        self.unknown = torch.zeros(self.units, dtype=torch.bool)
        if chosen is not None:
            self.unknown = ~chosen.chosen
        buffers = {name: placed.labels for name, placed in index.buffers.items()}
        self.labels = {
            name: labels.to(integrand.device)
            for name, labels in (index.labels | buffers).items()
            if name in self.start
        }
        self.places: dict[int, list[str]] = {}  # what did not change has no effect: it is not run
        for name, labels in self.labels.items():
            moved = self.start[name] != self.end[name]
            for unit in labels.expand(moved.shape)[moved].unique().tolist():
                if unit >= 0 and not self.unknown[unit]:
                    self.places.setdefault(int(unit), []).append(name)

    def effects(self, batch: Batch) -> Float[Tensor, "units b"]:
        """Exchange each unit, and give the objective's change."""
        evaluate = self.integrand.objective.values
        own = evaluate(self.start, batch).double()
        effects = torch.zeros(self.units, len(batch), dtype=torch.float64)
        for unit, names in self.places.items():
            exchanged = {
                name: torch.where(self.labels[name] == unit, self.end[name], self.start[name])
                for name in names
            }
            found = evaluate({**self.start, **exchanged}, batch)
            effects[unit] = (found.double() - own).cpu()
        return effects

    def reduced(self, effects: Float[Tensor, "units"]) -> Reduced:
        """Give one sample's effects; what has no unit was not exchanged, and is not known."""
        return Reduced(effects.abs(), effects, torch.nan)


def _samples(exchanges: Mapping[str, _Exchange], batch: Batch) -> Iterator[Sample]:
    effects = {name: one.effects(batch) for name, one in exchanges.items()}
    for number in range(len(batch)):
        yield Sample({n: one.reduced(effects[n][:, number]) for n, one in exchanges.items()})


def _cheap(
    model: nn.Module,
    baseline: Baseline,
    loader: Any,
    request: Request,
    reducer: Any,
    objective: Objective,
    strict: bool,
    distributed: Distributed,
) -> Scores:
    for batches in request.loaders.values():
        if iter(batches) is batches:
            raise DataError(
                "the loader can be read only once, and a budget without candidates reads it twice: "
                "give a list or a DataLoader, or candidates=..."
            )
    [_, *more] = request.indexes
    if more:
        raise _several()
    found = gradient_times_change(
        model,
        baseline,
        loader,
        reducer=reducer,
        objective=objective,
        at="middle",
        strict=strict,
        distributed=distributed,
    )
    scores = list(found.values()) if isinstance(found, dict) else [found]
    of_reducer = [s if isinstance(s, Scores) else next(iter(s.values())) for s in scores]
    return reduce(add, of_reducer)


def _chosen(
    request: Request, candidates: Selection | Scores | None, budget: int | None
) -> Selection | None:
    if candidates is None:
        return None
    [index, *more] = request.indexes.values()
    if more:
        raise _several()
    if not isinstance(candidates, Selection | Scores):
        raise UnitError(
            f"the candidates are {an(type(candidates))}: expected a Selection, or Scores "
            "with a budget"
        )
    check_same_units(index, candidates.index, "the candidates' substitution")
    if isinstance(candidates, Scores):
        if budget is None:
            raise UnitError(
                "the candidates are a ranking without a budget: give budget=..., or take their top "
                "first, candidates=scores.top(count=50)"
            )
        candidates = candidates.top(count=budget, warn=False)
    elif budget is not None and budget < len(candidates):
        raise UnitError(
            f"budget is {budget} and the selection holds {len(candidates)} units in no order: "
            "expected a ranking, such as Scores, to take the best of"
        )
    left = len(index) - len(candidates)
    if left:
        warn(
            f"{len(candidates)} of {len(index)} units are exchanged: the other {left} have the "
            "score 0 since they were not tried, not since they have no effect"
        )
    return candidates


def _several() -> UnitError:
    return UnitError("candidates are of one set of units: expected one reducer, found several")

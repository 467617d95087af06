"""Two models and what is compared between them, made ready anew at each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramattr.errors import ModelError, ParamattrError
from paramattr.integration.adaptive import Adaptive, AdaptiveIntegral
from paramattr.integration.batches import Batch
from paramattr.integration.drawn_integral import DrawnIntegral
from paramattr.integration.ends import path_between
from paramattr.integration.estimate import Estimate, estimate_of
from paramattr.integration.functional import FunctionalModel
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrand import Integrand
from paramattr.integration.path_integral import Integral, PathIntegral, Spent
from paramattr.integration.plan import Plan
from paramattr.integration.preflight import Preflight
from paramattr.integration.profile import PathProfile, profile_of
from paramattr.integration.readings import check_readings
from paramattr.integration.request import Loaders, Reducers, Request, first_batch
from paramattr.integration.scoring import Function, as_they_are, score_samples
from paramattr.integration.settling import Settling
from paramattr.integration.sharded import ShardedIntegral, ShardedSamples
from paramattr.integration.shards import Shards, is_sharded, members
from paramattr.integration.summing import Summed, check_complete, delta_of, sum_samples
from paramattr.objectives import Objective, check_callable
from paramattr.parameters import Baseline, pick
from paramattr.paths import Path
from paramattr.quadrature import Rule, get_rule
from paramattr.runtime.compute import Compute, check_count
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.memory import held
from paramattr.runtime.ranks import ALONE, Distributed, Ranks

DRAWN = "drawn"
"""The name of the rule that has other nodes for each sample."""
BETWEEN = (0.25, 0.5, 0.75)
"""Where the first samples are looked at if they share no nodes: a barrier may lie there."""


class Found(NamedTuple):
    """What a call of `score` found.

    Attributes:
        answer: the scores, in the shape of the request.
        spent: what an adaptive integration took, an entry per sample.
        plan: the order of the gradients, where parameters were taken one after the other.
    """

    answer: Any
    spent: tuple[Spent, ...]
    plan: Plan | None


@dataclass(frozen=True)
class Pair:
    """A target and a baseline, an objective, and how to compute.

    Attributes:
        model: the target, without wrappers.
        baseline: the model it is compared with, or a mapping of names to tensors.
        objective: as in `FAIG`.
        path: as in `FAIG`.
        wanted: the parameters that are reported, as in `FAIG`.
        compute: device, precision, compiler and threads.
        strict: as in `FAIG`.
        done: what is done once for a pair, over all calls.
    """

    model: nn.Module
    baseline: Baseline
    objective: Objective
    path: Path | None
    wanted: Iterable[str] | Callable[[str, Tensor], bool] | None
    compute: Compute
    strict: bool
    done: set[str]

    def check(self) -> None:
        """Look at what does not depend on data.

        Raises:
            ModelError: as `FAIG`.
        """
        if is_sharded(self.model):
            self._check_shards()
            return
        check_callable(self.objective)
        ends = path_between(
            self.model, self.baseline, self.path, self.compute, strict=self.strict, quiet=False
        )
        pick(self.model, self.wanted, ends.buffers)

    def opened(self, ranks: Ranks) -> AbstractContextManager[Shards | None]:
        """Give the models' shards, which may be written over inside `with`; or None."""
        return Shards(self.model, self.baseline, ranks) if is_sharded(self.model) else nullcontext()

    def integral(self, n_steps: int, method: str | Rule | Adaptive) -> Integral:
        """Give the integral over samples, of whole models."""
        if is_adaptive(method) and not isinstance(method, Adaptive):
            method = Adaptive()
        self.compute.check_workers(self.model, adaptive=isinstance(method, Adaptive))
        if method == DRAWN:
            return DrawnIntegral(self.integrand(), n_steps)
        if isinstance(method, Adaptive):
            return AdaptiveIntegral(self.integrand(), method)
        return PathIntegral(self.integrand(), get_rule(method, n_steps))

    def sharded(
        self,
        shards: Shards,
        n_steps: int,
        method: str | Rule | Adaptive,
        partitions: int,
        ranks: Ranks,
    ) -> ShardedIntegral:
        """Give the integral over samples, of the models' shards.

        Raises:
            ModelError: for an adaptive rule, or several partitions.
        """
        if isinstance(method, Adaptive) or is_adaptive(method):
            raise ModelError(
                'method="adaptive" needs the attributions of all parameters at once, and the model '
                "is sharded: expected a rule with fixed nodes"
            )
        if partitions > 1:
            raise ModelError(
                f"partitions is {partitions} and the model is sharded: FSDP makes all gradients in "
                "each pass, so nothing is saved; use partitions=1, or more processes"
            )
        if method == DRAWN:
            raise ModelError(
                'method="drawn" and the model is sharded: expected a rule whose nodes are the same '
                "for all samples"
            )
        reported, rule = pick(self.model, self.wanted), get_rule(method, n_steps)
        ranks.meet()  # before what every process must take part in
        return ShardedIntegral(shards, self.objective, reported, rule, ranks)

    def integrand(self) -> Integrand:
        """Give the objective along the path: the models may have been moved or trained on since."""
        path = path_between(self.model, self.baseline, self.path, self.compute, strict=self.strict)
        model = FunctionalModel(self.model, self.compute, moving=path.buffers)
        reported = pick(self.model, self.wanted, path.buffers)
        return Integrand(ObjectiveOfParameters(model, self.objective), path, tuple(reported))

    def preflight(
        self, integrand: Integrand, ranks: Ranks = ALONE, between: tuple[float, ...] = ()
    ) -> Preflight:
        """Plan the look at the first samples.

        Models and gradients are compared in the first call alone.
        """
        is_due = "compared" not in self.done
        self.done.add("compared")
        baseline = self.baseline if isinstance(self.baseline, nn.Module) else None
        if not is_due or is_sharded(self.model):
            baseline = None
        return Preflight(integrand, baseline, ranks, between, looks_for_cuts=is_due)

    def attribute(
        self,
        given: tuple[Any, Any, Any],
        *,
        n_steps: int,
        method: str | Rule | Adaptive,
        at_once: int | None,
        whole: bool,
        per_sample: bool,
        show_progress: bool,
    ) -> tuple[Summed, Tensor | None]:
        """Give what `FAIG.attribute` gives, and the delta where `whole` asks for it."""
        with undisturbed(self.model, self.compute.device):
            check_count("internal_batch_size", at_once, ", or None")
            integral = self.integral(n_steps, method)
            integrand = integral.integrand
            batch = self.batch(*given, integrand)
            chunk = 1 if per_sample else at_once or len(batch)
            batch = integrand.referenced(batch, chunk)
            check_readings(integrand, batch)
            before = integrand.values(0.0, batch, chunk)  # what is wrong shows before the work
            self.preflight(integrand).compare(batch.part(0, 1))
            found = sum_samples(
                integral,
                batch,
                whole=whole,
                per_sample=per_sample,
                at_once=(at_once or 1) if per_sample else chunk,
                workers=self.compute.workers,
                show_progress=show_progress,
            )
            if not whole:
                return found, None
            change = integrand.values(1.0, batch, chunk) - before
            return found, found.totals - (change if per_sample else change.sum())

    def delta(self, attributions: Mapping[str, Tensor], given: tuple[Any, Any, Any]) -> Tensor:
        """Give what `FAIG.compute_convergence_delta` gives."""
        with undisturbed(self.model, self.compute.device):
            integral = PathIntegral(self.integrand(), get_rule("riemann_middle", 1))
            check_complete(attributions, integral.moving)
            batch = self.batch(*given, integral.integrand)
            batch = integral.integrand.referenced(batch, len(batch))
            return delta_of(attributions, integral.integrand, batch)

    def score(
        self,
        loader: Loaders,
        reducer: Reducers,
        *,
        n_steps: int,
        method: str | Rule | Adaptive,
        at_once: int | None,
        show_progress: bool,
        checkpoint: str | FilePath | None,
        function: Function,
        settling: Settling,
        distributed: Distributed,
        partitions: int,
    ) -> Found:
        """Give what `FAIG.score` gives, and how it was come by."""
        ranks = Ranks(distributed, members(self.model))
        isolated = undisturbed(self.model, self.compute.device, sharded=True)
        with ranks.together(), isolated, self.opened(ranks) as shards:
            check_count("internal_batch_size", at_once, ", or None")
            check_count("partitions", partitions)
            _check_alone(settling, ranks)
            request, work = Request(self.model, loader, reducer), None
            if shards is None:
                integral = self.integral(n_steps, method)
            else:
                integral = sharded = self.sharded(shards, n_steps, method, partitions, ranks)
                own = None if function is as_they_are else function
                work = ShardedSamples(sharded, request.indexes, own)
            found = score_samples(
                integral,
                request,
                function=function,
                preflight=self.preflight(
                    integral.integrand,
                    ranks,
                    BETWEEN if isinstance(integral, DrawnIntegral) else (),
                ),
                at_once=at_once or 1,
                workers=self.compute.workers,
                memory=self.compute.memory,
                checkpoint=checkpoint,
                settling=settling,
                show_progress=show_progress,
                ranks=ranks,
                partitions=partitions,
                work=work,
            )
            return Found(request.answer(found.scores), found.spent, found.plan)

    def profile(
        self,
        loader: Iterable[Any],
        n_points: int,
        *,
        at_once: int | None,
        show_progress: bool,
        distributed: Distributed,
    ) -> PathProfile:
        """Give what `FAIG.path_profile` gives."""
        ranks = Ranks(distributed)
        with ranks.together(), undisturbed(self.model, self.compute.device):
            check_count("internal_batch_size", at_once, ", or None")
            integrand = self.integrand()
            integrand.compare(ranks, n_points)
            return profile_of(
                integrand,
                loader,
                partial(Batch.from_loader, device=integrand.device, model=self.model),
                n_points,
                at_once,
                show_progress=show_progress,
                ranks=ranks,
            )

    def estimate(
        self, loader: Loaders, reducer: Reducers, *, at_once: int | None, partitions: int
    ) -> Estimate:
        """Give what `FAIG.estimate` gives."""
        with undisturbed(self.model, self.compute.device):
            check_count("internal_batch_size", at_once, ", or None")
            check_count("partitions", partitions)
            now = held(torch.device(self.compute.device or next(self.model.parameters()).device))
            request, size = Request(self.model, loader, reducer), at_once or 1
            integral = self.integral(1, "riemann_middle")
            integrand, item = integral.integrand, first_batch(request.loaders)
            batch = Batch.from_loader(item, device=integrand.device, model=self.model)
            return estimate_of(
                integral,
                self.baseline,
                request.indexes.values(),
                integrand.referenced(batch.part(0, size), size),
                held=now,
                at_once=size,
                partitions=partitions,
                workers=self.compute.workers,
                memory=self.compute.memory,
            )

    def batch(self, inputs: Any, targets: Any, extra: Any, integrand: Integrand) -> Batch:
        """Give the samples of one call, where it computes."""
        return Batch.of(inputs, targets, extra, device=integrand.device, model=self.model)

    def _check_shards(self) -> None:
        ranks = Ranks(False, members(self.model))
        with ranks.together():
            check_callable(self.objective)
            self._check_sharded_options()
            pick(self.model, self.wanted)
            Shards(self.model, self.baseline, ranks)

    def _check_sharded_options(self) -> None:
        refused = {
            "path": self.path is not None,
            "device": self.compute.device is not None,
            "dtype": self.compute.dtype is not None,
            "compile": self.compute.compile,
            "workers": self.compute.workers > 1,
            "strict=False": not self.strict,
        }
        for option, holds in refused.items():
            if holds:
                raise ModelError(
                    f"{option} is given, and the model is sharded: expected the straight line and "
                    "the machine and precision that fully_shard was given; leave it out"
                )


def _check_alone(settling: Settling, ranks: Ranks) -> None:
    if ranks.processes > 1 and (settling.until is not None or settling.max_samples is not None):
        raise ParamattrError(
            "until and max_samples count the samples of one process, and there are "
            f"{ranks.processes}: expected distributed=False with them; leave them out, or score in "
            "one process"
        )


def is_adaptive(method: object) -> bool:
    """Say whether a method takes as many nodes as each sample needs."""
    return isinstance(method, Adaptive) or (isinstance(method, str) and method == "adaptive")

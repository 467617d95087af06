"""FAIG: integrated gradients along a path through parameter space (Eq. 4 to 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path as FilePath
from typing import Any, Literal, TypeVar, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.cost import Cost, Plan, Spent
from paramattr.errors import ModelError, ParamattrError
from paramattr.integration.batches import Batch, Inputs
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integral import Integral, Method, delta_of, sum_samples
from paramattr.integration.integrals import method_of
from paramattr.integration.integrand import Integrand, path_between
from paramattr.integration.model import FunctionalModel
from paramattr.integration.shards import Shards, integrand_of_shards, is_sharded, members
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import Baseline, pick
from paramattr.paths import FittedPath, Path
from paramattr.quadrature import Rule
from paramattr.runtime.compute import Compute, check_count
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.memory import held
from paramattr.runtime.ranks import ALONE, Distributed, Ranks
from paramattr.scoring.checks import Preflight
from paramattr.scoring.estimate import Estimate, estimate_of
from paramattr.scoring.profile import PathProfile, profile_of
from paramattr.scoring.readings import check_readings
from paramattr.scoring.request import (
    Conditions,
    Loaders,
    One,
    Reducers,
    Request,
    Several,
    first_batch,
)
from paramattr.scoring.run import Function, Options, as_they_are, score_samples
from paramattr.scoring.until import Until
from paramattr.units.scores import Scores
from paramattr.wrappers import unwrapped_pair

CAPTUMS_KEYWORDS = {
    "target": "give what the objective compares the output with as targets, with the inputs, and "
    "choose the objective in the constructor: FAIG(target, baseline, objective=cross_entropy) for "
    "classes, logit_difference(answer, distractor) for one class against another",
    "baselines": "the baseline is a model, not an input, and goes into the constructor: "
    "FAIG(target, baseline, objective=...); along inputs goes InputPathIntegratedGradients",
}
"""Keywords of Captum's methods to what is written here in their place."""

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


def _told_from_captum(method: Wrapped) -> Wrapped:
    """Let a method answer Captum's keywords with what to write instead."""

    @wraps(method)
    def checked(*arguments: Any, **options: Any) -> Any:
        # Named before Python's own error, which would only say that the keyword is unexpected.
        for keyword, instead in CAPTUMS_KEYWORDS.items():
            if keyword in options:
                raise ParamattrError(f"{keyword}= is Captum's keyword: {instead}")
        return method(*arguments, **options)

    return cast(Wrapped, checked)


class Attributed(dict[str, Tensor]):
    """Attributions by name, as `FAIG.attribute` gives them.

    Attributes:
        spent: what an adaptive integration took, an entry per sample (or per summed batch).
    """

    spent: tuple[Spent, ...] = ()


class FAIG:
    """Attribute the change of an objective between two models to their parameters.

        A_i(x) = ∫_0^1 ∂L(γ(α), x)/∂γ(α)_i · ∂γ(α)_i/∂α dα

    with γ(0) the target and γ(1) the baseline. Over all that moves, the attributions of one sample
    sum to `L(baseline) - L(target)`: a positive one says that this change lowered the objective.

    Floating-point buffers that differ, such as the statistics of a batch norm, move along the path
    as parameters do, and have attributions under their own names. The model's parameters,
    gradients, buffers and mode, and the random state, are as they were after any call.

    Args:
        model: target, in evaluation mode.
        baseline: model that it is compared with, or a mapping of names to tensors.
        objective: function of `(output, targets)` that gives one number per sample, `(B,)`.
        parameters: names of what is reported, or a predicate of `(name, parameter)`; all by
            default. All that differ move along the path either way. A tied one goes by its first
            name.
        path: path from the target to the baseline; the straight line by default.
        device: device to compute on; the model's by default. The model itself is not moved.
        dtype: precision that the model computes in; by default the model's own, float32 at least.
            A half precision, such as `torch.bfloat16`, is mixed (`torch.autocast`): path, sums and
            results are in float32 at least. A warning says if the objective's change differs from
            the one in float32 by more than 5%.
        compile: whether `torch.compile` translates the model, for one sample at a time alone.
        workers: number of threads on the CPU that take samples side by side, each with the memory
            of one; model and objective must not keep anything from call to call.
        memory: bytes that `score` may take for points of the path and for sums of gradients (see
            `Plan`); by default 1.75 times the parameters, or 256 MiB if that is more.
        strict: whether both models must have the same parameters. If not, those of one model alone,
            or of another shape (a new head), stay the target's, and a warning lists them.

    Raises:
        ModelError: if the two are not of one architecture, are equal, are not finite, or the path
            or `parameters` do not fit them.

    Source: Xie et al. 2021, "Finding Discriminative Filters for Specific Degradations in Blind
    Super-Resolution", Eq. 4 to 6.

    >>> target, baseline = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    >>> for model, weight in ((target, 1.0), (baseline, 3.0)):
    ...     _ = torch.nn.init.constant_(model.weight, weight), torch.nn.init.zeros_(model.bias)
    >>> attributions = FAIG(target, baseline).attribute(torch.ones(1, 1), torch.zeros(1, 1))
    >>> round(attributions["weight"].item(), 4)  # 3 squared minus 1 squared
    8.0
    """

    @_told_from_captum
    def __init__(
        self,
        model: nn.Module,
        baseline: Baseline,
        *,
        objective: Objective = squared_error,
        parameters: Iterable[str] | Callable[[str, Tensor], bool] | None = None,
        path: Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        workers: int = 1,
        memory: int | None = None,
        strict: bool = True,
    ) -> None:
        # First: a device that is not there is named before any model is read.
        self.compute = Compute(device, dtype, compile, workers, memory)
        self.model, self.baseline = unwrapped_pair(model, baseline)
        self.objective, self.strict = objective, strict
        self._given_path, self._wanted = path, parameters
        self._latest: tuple[tuple[Spent, ...], Plan | None] = ((), None)
        # Once for a pair, not once a call: the comparison costs passes of its own.
        self._was_compared = False
        self._check()

    @property
    def spent(self) -> tuple[Spent, ...]:
        """What the last adaptive call took; with the answer it is `.spent`, `.spent.each`."""
        return self._latest[0]

    @property
    def plan(self) -> Plan | None:
        """How the last call of `score` ordered its gradients; with the answer `.spent.plan`."""
        return self._latest[1]

    def __repr__(self) -> str:
        """Say what is compared on what."""
        what = getattr(self.objective, "__name__", type(self.objective).__name__)
        return f"FAIG({type(self.model).__name__}, {type(self.baseline).__name__}, {what})"

    def has_convergence_delta(self) -> bool:
        """Say that this method is complete: it has a convergence delta (as in Captum)."""
        return True

    @overload
    def attribute(
        self,
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = ...,
        method: str | Rule | Method = ...,
        internal_batch_size: int | None = None,
        return_convergence_delta: Literal[False] = False,
        **options: bool,
    ) -> Attributed: ...
    @overload
    def attribute(
        self,
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = ...,
        method: str | Rule | Method = ...,
        internal_batch_size: int | None = None,
        *,
        return_convergence_delta: Literal[True],
        **options: bool,
    ) -> tuple[Attributed, Tensor]: ...
    @overload
    def attribute(
        self, inputs: Inputs, *given: Any, return_convergence_delta: bool, **options: Any
    ) -> Attributed | tuple[Attributed, Tensor]: ...
    @_told_from_captum  # type: ignore[misc]  # overloads do not restate the options
    def attribute(
        self,
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 16,
        method: str | Rule | Method = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        per_sample: bool = False,
        show_progress: bool = False,
    ) -> Attributed | tuple[Attributed, Tensor]:
        """Attribute the objective's change on some samples.

        Args:
            inputs: a tensor or a tuple of tensors, `(B, ...)`, or a mapping of keyword arguments;
                `labels` of a mapping that comes without targets are the targets.
            targets: what the objective compares the output with, `(B, ...)`; None if it needs none.
            additional_forward_args: further arguments of the model, one, a tuple, or a mapping of
                keywords; tensors are batch first, and one without dimensions is shared.
            n_steps: nodes of the rule on each smooth piece of the path.
            method: a rule's name (`"riemann_left"`, `"riemann_right"`, `"riemann_middle"`,
                `"riemann_trapezoid"`, `"simpson"`, `"gausslegendre"`, `"gausskronrod"`) or a
                `Rule` with nodes of its own. `"riemann_left"` with 100 is the paper's.
                `"drawn"` gives each sample other nodes (`quadrature.drawn`): with many samples, one
                or two nodes are enough for a ranking.
                `"adaptive"`, or an `Adaptive`, takes as many as needed; then see `spent`.
            internal_batch_size: most samples that go through the model at once; all by default.
                With `per_sample` one by default: more are differentiated in one pass by
                `torch.func.vmap`, which takes as many times the memory of the parameters.
            return_convergence_delta: give the delta too.
            per_sample: keep the samples apart.
            show_progress: draw a bar on stderr.

        Returns:
            Names to attributions shaped like the parameters, summed over the batch, or
            `(B, *shape)` with `per_sample`; in float32 at least. With `return_convergence_delta` a
            pair of them and the delta: the sum of the attributions of all that moves, reported or
            not, minus the objective's change; `(B,)` with `per_sample`, else a scalar, in float64.

        Raises:
            ParamattrError: for an unknown rule, or a number of nodes or samples it cannot take.
            ModelError: if the model is in training mode or no longer fits the baseline.
            DataError: if numbers of samples differ, or what is given might be per sample or shared.
            ObjectiveError: if the objective does not give one finite number per sample.
        """
        with undisturbed(self.model, self.compute.device):
            check_count("internal_batch_size", internal_batch_size, ", or None")
            rule = method_of(method, n_steps)
            integral = self._integral(rule)
            integrand = integral.integrand
            batch = self._batch(inputs, targets, additional_forward_args)
            # The objective must not depend on how a batch is cut, but rounding does: the delta is
            # taken with the same parts as the attributions.
            chunk = 1 if per_sample else internal_batch_size or len(batch)
            batch = integrand.referenced(batch, chunk)
            check_readings(integrand, batch)
            before = integrand.values(0.0, batch, chunk)  # what is wrong shows before the work
            self._preflight(integral).compare(batch.part(0, 1))
            found = sum_samples(
                integral,
                batch,
                whole=return_convergence_delta,
                per_sample=per_sample,
                at_once=(internal_batch_size or 1) if per_sample else chunk,
                workers=self.compute.workers,
                show_progress=show_progress,
            )
            answer = Attributed(found.attributions)
            answer.spent = found.spent
            # Only an adaptive rule spends what is not known beforehand; another call leaves the
            # last news.
            self._latest = (found.spent if rule.needs_all else self.spent, self.plan)
            if not return_convergence_delta:
                return answer
            # Both ends as they were handed in, not as the nodes saw them: this is what must be
            # reached.
            change = integrand.values(1.0, batch, chunk) - before
            return answer, found.totals - (change if per_sample else change.sum())

    @_told_from_captum
    def compute_convergence_delta(
        self,
        attributions: Mapping[str, Tensor],
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
    ) -> Float[Tensor, "..."]:
        """Compare attributions with the change that they should sum to.

        Args:
            attributions: what `attribute` gave, of all parameters that move; with the batch first
                if it was called with `per_sample`.
            inputs: those of that call.
            targets: those of that call.
            additional_forward_args: those of that call.

        Returns:
            The sum of the attributions minus `L(baseline) - L(target)`, in float64: `(B,)` if they
            are per sample, else a scalar.

        Raises:
            ModelError: if a parameter that moves is not among them, or one has another shape.
        """
        with undisturbed(self.model, self.compute.device):
            integral = self._integral(method_of("riemann_middle", 1))
            batch = self._batch(inputs, targets, additional_forward_args)
            return delta_of(attributions, integral, batch)

    @overload
    def score(self, loader: Conditions, *, reducer: One, **options: Any) -> dict[str, Scores]: ...
    @overload
    def score(
        self, loader: Conditions, *, reducer: Several, **options: Any
    ) -> dict[str, dict[str, Scores]]: ...
    @overload
    def score(self, loader: Iterable[Any], *, reducer: One, **options: Any) -> Scores: ...
    @overload
    def score(
        self, loader: Iterable[Any], *, reducer: Several, **options: Any
    ) -> dict[str, Scores]: ...
    @overload
    def score(self, loader: Loaders, *, reducer: Reducers, **options: Any) -> Any: ...
    @_told_from_captum  # type: ignore[misc]  # overloads do not restate the options
    def score(
        self,
        loader: Loaders,
        *,
        reducer: Reducers,
        n_steps: int = 4,
        method: str | Rule | Method = "gausslegendre",
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        checkpoint: str | FilePath | None = None,
        function: Function = as_they_are,
        until: float | Until | None = None,
        fraction: float = 0.01,
        max_samples: int | None = None,
        distributed: Distributed = False,
        partitions: int = 1,
    ) -> Any:
        """Stream samples into one score per unit: the mean of the summed magnitudes.

            S_u = 1/|X| Σ_{x in X} Σ_{i in u} |A_i(x)|

        Args:
            loader: any iterable of batches: `(inputs, targets)`, tensors if the objective needs no
                target, or mappings of keyword arguments with `labels`. They are moved to where it
                computes. A mapping of conditions to such iterables scores each in one pass.
            reducer: the units: a name such as `"kernel"`, `"output_channel"`, `"attention_head"`,
                `"neuron"` or `"layer"`, or a callable (see `paramattr.units.reducers`); or a list.
            n_steps: number of nodes on each smooth piece of the path. By default fewer than in
                `attribute`: a ranking settles before the sum does, and further gradients do more
                for it on further samples.
            method: rule that places them, as in `attribute`.
            internal_batch_size: number of samples that are differentiated at once, as in
                `attribute` with `per_sample`; one by default, since each needs its own absolute
                value.
            show_progress: whether to draw a bar on stderr.
            checkpoint: file that keeps the sums after each batch; the same call, repeated with
                it and the same batches, resumes. Of several ranks each has its own. It is refused
                where the state of objective or function cannot be seen (a file, a lock).
            function: function of each sample's attributions, by name; what it gives is reduced in
                their place.
            until: agreement, above 0 and below 1: stop once the estimated agreement
                (`Scores.agreement`) of the top units with those of all such samples reaches this
                value; of each condition's contrast where there are several. The samples must come
                in random order. Or an `Until`, which holds the next two options too.
            fraction: share of the units that `until` is about.
            max_samples: largest number of samples of each condition; all by default.
            distributed: whether ranks share the work (True), or a process group that does: every
                rank makes the same call with the same loader, takes its share of the samples, and
                gets the scores of all.
            partitions: number of passes per sample and node, each with the gradients and sums of
                one part of the parameters, which `function` then sees.

        Returns:
            Scores of all units; parameters that are not reported count as zero. A dict by condition
            where `loader` is a mapping, by reducer where `reducer` is a list, and by condition and
            then by reducer where both are.

        Warns:
            UserWarning: where the samples end before `until` is reached.

        Raises:
            ParamattrError: what `attribute` raises, and for an unknown reducer, an empty loader
                or a checkpoint of other settings.
            RankError: if another rank fails, or was given other models or data.

        Source: Xie et al. 2021, each term of Eq. 7.
        """
        # Joined before anything is looked at: an error on one rank must reach the others.
        ranks = Ranks(distributed, members(self.model))
        isolated = undisturbed(self.model, self.compute.device, sharded=True)
        with ranks.together(), isolated, self._opened(ranks) as shards:
            # Made inside, so that an option that is wrong on one rank ends all of them.
            options = Options(
                method_of(method, n_steps),
                at_once=1 if internal_batch_size is None else internal_batch_size,
                partitions=partitions,
                function=function,
                checkpoint=checkpoint,
                until=_limit(until, fraction, max_samples),
                show_progress=show_progress,
                ranks=ranks,
            )
            request = Request(self.model, loader, reducer)
            integral = self._integral(options.method, shards, options)
            preflight = self._preflight(integral, ranks)
            scores = score_samples(integral, request, options, preflight, self.compute)
            cost = next(one.spent or Cost() for of in scores.values() for one in of.values())
            self._latest = (cost.each if options.method.needs_all else self.spent, cost.plan)
            return request.answer(scores)

    def path_profile(
        self,
        loader: Iterable[Any],
        n_points: int = 11,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        distributed: Distributed = False,
    ) -> PathProfile:
        """Evaluate the objective along the path, without any gradient.

        A path that rises far above both ends leads through damaged models: `barrier` says how far.

        Args:
            loader: batches, as in `score`.
            n_points: evenly spaced places, both ends included; at least 3.
            internal_batch_size: most samples that run together; a whole batch by default.
            show_progress: draw a bar on stderr.
            distributed: as in `score`.

        Raises:
            ParamattrError: for fewer than 3 places, an empty loader, and what `score` raises.
        """
        ranks = Ranks(distributed)
        with ranks.together(), undisturbed(self.model, self.compute.device):
            check_count("internal_batch_size", internal_batch_size, ", or None")
            integrand = self._integrand()
            integrand.compare(ranks, n_points)
            return profile_of(
                integrand,
                loader,
                partial(Batch.from_loader, device=integrand.device, model=self.model),
                n_points,
                internal_batch_size,
                show_progress=show_progress,
                ranks=ranks,
            )

    def estimate(
        self,
        loader: Loaders,
        *,
        reducer: Reducers,
        internal_batch_size: int | None = None,
        partitions: int = 1,
        available: int | None = None,
    ) -> Estimate:
        """Estimate the memory that `score` takes, before it is called.

        Args:
            loader: as in `score`; the first sample is differentiated once, and measured.
            reducer: as in `score`.
            internal_batch_size: as in `score`.
            partitions: as in `score`.
            available: bytes of the machine that it is for; by default what this one still has.

        Returns:
            The estimate, in bytes, and `advice` where it does not fit.

        Raises:
            ParamattrError: as `score`, and for a loader that can be read only once.
        """
        with undisturbed(self.model, self.compute.device):
            check_count("internal_batch_size", internal_batch_size, ", or None")
            check_count("partitions", partitions)
            # Before the path's copies of the models are made: they belong to what a call adds.
            now = held(self._device)
            request, size = Request(self.model, loader, reducer), internal_batch_size or 1
            # Several nodes, as a call takes by default: sums of gradients count.
            integral = self._integral(Options().method)
            integrand, item = integral.integrand, first_batch(request.loaders)
            batch = Batch.from_loader(item, device=integrand.device, model=self.model)
            return estimate_of(
                integral,
                self.baseline,
                request.indexes,
                integrand.referenced(batch.part(0, size), size),
                held=now,
                partitions=partitions,
                compute=self.compute,
                free=available,
            )

    @property
    def _device(self) -> torch.device:
        return torch.device(self.compute.device or next(self.model.parameters()).device)

    def _check(self) -> None:
        """Look at what does not depend on data."""
        # Shards have no path of their own here: they are opened and closed by each call.
        if is_sharded(self.model):
            self._check_shards()
            return
        check_callable(self.objective)
        path = self._path(quiet=False)
        pick(self.model, self._wanted, path.buffers)

    def _check_shards(self) -> None:
        ranks = Ranks(False, members(self.model))
        refused = {
            "path": self._given_path is not None,
            "device": self.compute.device is not None,
            "dtype": self.compute.dtype is not None,
            "compile": self.compute.compile,
            "workers": self.compute.workers > 1,
            "strict=False": not self.strict,
        }
        with ranks.together():
            check_callable(self.objective)
            for option, holds in refused.items():
                if holds:
                    raise ModelError(
                        f"{option} is given, and the model is sharded: expected the straight line "
                        "and the machine and precision that fully_shard was given; leave it out"
                    )
            pick(self.model, self._wanted)
            # Made and dropped: it looks at shapes, meshes and buffers, and copies nothing yet.
            Shards(self.model, self.baseline, ranks)

    @contextmanager
    def _opened(self, ranks: Ranks) -> Iterator[Shards | None]:
        """Give the models' shards, which may be written over inside `with`; or None."""
        if not is_sharded(self.model):
            yield None
            return
        with Shards(self.model, self.baseline, ranks) as shards:
            yield shards

    def _path(self, *, quiet: bool = True) -> FittedPath:
        """Make the path anew: the models may have been moved or trained on since."""
        ends = (self.model, self.baseline, self._given_path, self.compute)
        return path_between(*ends, strict=self.strict, quiet=quiet)

    def _integrand(self) -> Integrand:
        """Give the objective along the path."""
        path = self._path()
        model = FunctionalModel(self.model, self.compute, moving=path.buffers)
        reported = pick(self.model, self._wanted, path.buffers)
        return Integrand(ObjectiveOfParameters(model, self.objective), path, tuple(reported))

    def _integral(
        self, method: Method, shards: Shards | None = None, options: Options | None = None
    ) -> Integral:
        """Give the integral over samples."""
        # Of whole models. Every call makes them anew, since models may be trained between two.
        if shards is None or options is None:
            self.compute.check_workers(self.model, adaptive=method.needs_all)
            return method.integral(self._integrand())
        method.check_shards()
        if options.partitions > 1:
            raise ModelError(
                f"partitions is {options.partitions} and the model is sharded: FSDP makes all "
                "gradients in each pass, so nothing is saved; use partitions=1, or more processes"
            )
        reported, ranks = pick(self.model, self._wanted), options.ranks
        ranks.meet()  # before what every process must take part in
        return method.integral(integrand_of_shards(shards, self.objective, reported, ranks))

    def _preflight(self, integral: Integral, ranks: Ranks = ALONE) -> Preflight:
        """Plan the look at the first samples; models and gradients are compared in one call."""
        is_due, self._was_compared = not self._was_compared, True
        baseline = self.baseline if isinstance(self.baseline, nn.Module) else None
        # A baseline that is sharded too cannot run on the path's end: shards are written in place.
        if not is_due or is_sharded(self.model):
            baseline = None
        places = tuple(integral.looked_at)
        return Preflight(integral.integrand, baseline, ranks, places, looks_for_cuts=is_due)

    def _batch(self, inputs: Any, targets: Any, extra: Any) -> Batch:
        """Give the samples of one call, where it computes."""
        return Batch.of(inputs, targets, extra, device=self._device, model=self.model)


def _limit(until: float | Until | None, fraction: float, max_samples: int | None) -> Until:
    """Give the limit on the samples, which may come as one object or as numbers."""
    if not isinstance(until, Until):
        return Until(until, fraction, max_samples)
    # Which of two limits holds would be a guess.
    if max_samples is not None or fraction != Until.fraction:
        raise ParamattrError(
            f"until is {until!r}, and fraction or max_samples is given beside it: expected them in "
            "one place; leave them out, or give until a number"
        )
    return until


ParameterPathIntegratedGradients = FAIG
"""The long name of `FAIG`."""

"""Integrated gradients along a path through parameter space (FAIG, Eq. 4 to 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import chain
from numbers import Integral
from operator import itemgetter
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import ModelError, ParamattrError
from paramattr.integration.adaptive import Adaptive, AdaptiveIntegral, Magnitudes, Spent
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.path_integral import Attributions, PathIntegral
from paramattr.integration.preflight import PrecisionCheck
from paramattr.integration.streaming import mean_magnitude
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import (
    Baseline,
    align,
    named_parameters,
    pick,
    warn_of_buffers,
)
from paramattr.paths import FittedPath, Path, StraightLine, check_ends
from paramattr.quadrature import Rule, get_rule
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.workers import in_order
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores


class ParameterPathIntegratedGradients:
    """Attribute the change of an objective between two models to their parameters.

        A_i(x) = ∫_0^1 ∂L(γ(α), x)/∂γ(α)_i · ∂γ(α)_i/∂α dα

    with γ(0) the target and γ(1) the baseline. Over all parameters that
    move, the attributions of one sample sum to `L(baseline) - L(target)`: a positive one says that
    this parameter's change lowered the objective.

    Buffers stay at the target's values along the whole path. The model's parameters, gradients,
    buffers and mode, and the random state, are as they were after any call.

    Args:
        model: the target, in evaluation mode.
        baseline: the model it is compared with, or a mapping of names to tensors.
        objective: `(output, targets)` to a tensor `(B,)`, one number a sample.
        parameters: what is reported: names, or a predicate of `(name, parameter)`; all
            floating-point parameters by default. All that differ move along the path either way.
            A tied parameter goes by its first name.
        path: from the target to the baseline; the straight line by default.
        device: where to compute; where the model is by default. The model itself is not moved.
        dtype: precision that the model computes in; the model's own by default. A half precision,
            such as `torch.bfloat16` where the hardware computes in it, is mixed: parameters and
            inputs are float32 and `torch.autocast` says what computes in half. Path, sums and
            results stay in the model's, float32 at least. If the objective's change then differs by
            more than 5%, a warning says so.
        compile: whether `torch.compile` translates the model, on a GPU into CUDA graphs; False by
            default, since translating takes a minute. Without effect where several samples are
            differentiated at once.
        workers: threads on the CPU that take samples side by side and share torch's threads; one
            by default. More pay where one sample is too small to keep all cores busy. Each takes
            the memory of one, and a copy of the model's modules, not of its tensors; model and
            objective must not keep anything from call to call. The results differ in their last
            bits alone.

    Attributes:
        spent: what the last call with `method="adaptive"` took, one entry a sample (or a batch
            that was summed).

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
    ) -> None:
        self.model, self.baseline, self.objective = model, baseline, objective
        self.device, self.dtype, self.compile, self.workers = device, dtype, compile, workers
        _check_count("workers", workers)
        check_callable(objective)
        if dtype is not None and not getattr(dtype, "is_floating_point", False):
            raise ParamattrError(
                f"dtype is {dtype}: expected a floating-point one, such as torch.bfloat16"
            )
        self._reported = pick(model, parameters)
        self._given_path = path
        self.spent: list[Spent] = []
        self._path()
        warn_of_buffers(model, baseline)

    def has_convergence_delta(self) -> bool:
        """Say that this method is complete: it has a convergence delta (as in Captum)."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 16,
        method: str | Rule | Adaptive = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        per_sample: bool = False,
        show_progress: bool = False,
    ) -> Attributions | tuple[Attributions, Tensor]:
        """Attribute the objective's change on some samples.

        Args:
            inputs: a tensor or a tuple of tensors, `(B, ...)`.
            targets: what the objective compares the output with, `(B, ...)`; None if it needs none.
            additional_forward_args: further arguments of the model, one or a tuple; tensors are
                batch first.
            n_steps: nodes of the rule on each smooth piece of the path. On the study's
                networks 8 Gauss-Legendre nodes do as well as the paper's 100 left Riemann ones on
                blur, and better on noise.
            method: a rule's name (`"riemann_left"`, `"riemann_right"`, `"riemann_middle"`,
                `"riemann_trapezoid"`, `"simpson"`, `"gausslegendre"`, `"gausskronrod"`) or a
                `Rule`, which brings its own nodes. `"riemann_left"` with 100 is the paper's.
                `"adaptive"`, or an `Adaptive` with tolerances of one's own, takes as many nodes
                as each sample needs, and says in `spent` how many; `n_steps` is without effect.
            internal_batch_size: most samples that go through the model at once; all by default.
                With `per_sample` one by default: more are differentiated in one pass by
                `torch.func.vmap`, where it can follow the model, which takes so many times the
                memory of the parameters. It pays for small models (see docs/performance.md).
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
            DataError: if the inputs and targets hold different numbers of samples.
            ObjectiveError: if the objective does not give one finite number a sample.
        """
        with undisturbed(self.model, self.device):
            batch, integral, chunk = self._begin(
                inputs, targets, additional_forward_args, n_steps, method, internal_batch_size
            )
            whole = return_convergence_delta
            size = (internal_batch_size or 1) if per_sample else chunk
            chunk = 1 if per_sample else chunk
            before = integral.values(0.0, batch, chunk)  # what is wrong shows before the work
            PrecisionCheck(integral, stacklevel=3)(batch)
            attributions = integral.zeros((len(batch),) if per_sample else ())
            totals: list[Tensor] = []

            def results(one: PathIntegral, part: Batch) -> list[tuple[Attributions, Tensor]]:
                if per_sample:
                    return list(one.samples(part, whole=whole, at_once=size))
                return [one.over(part, whole=whole)]

            number, parts = (
                0,
                in_order(results, integral.replicas(self.workers), batch.chunks(size)),
            )
            with (
                progress_bar("attributing", len(batch), show=show_progress) as advance,
                closing(parts) as several,
            ):
                for found, total in chain.from_iterable(several):
                    for name, value in found.items():
                        kept = attributions[name]
                        (kept[number] if per_sample else kept).add_(value)
                    totals.append(total)
                    advance(min(chunk, len(batch) - number * chunk))
                    number += 1
            if not return_convergence_delta:
                return attributions
            change = integral.values(1.0, batch, chunk) - before
            if per_sample:
                return attributions, torch.stack(totals) - change
            return attributions, torch.stack(totals).sum() - change.sum()

    def compute_convergence_delta(
        self,
        attributions: Mapping[str, Tensor],
        inputs: Tensor | tuple[Tensor, ...],
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
        with undisturbed(self.model, self.device):
            batch, integral, chunk = self._begin(
                inputs, targets, additional_forward_args, 1, "riemann_middle", None
            )
            own = named_parameters(self.model)
            missing = [n for node in integral.nodes for n in node[2] if n not in attributions]
            if missing:
                raise ModelError(
                    f"parameter {missing[0]!r} moves along the path but has no attribution here: "
                    "completeness holds over all that moves; take the delta of a partial report "
                    "from attribute(..., return_convergence_delta=True)"
                )
            shapes = {
                name: (tuple(a.shape), tuple(own[name].shape))
                for name, a in attributions.items()
                if name in own
            }
            change = integral.values(1.0, batch, chunk) - integral.values(0.0, batch, chunk)
            if all(found == shape for found, shape in shapes.values()):
                total = sum(a.double().sum() for a in attributions.values())
                return torch.as_tensor(total - change.sum())
            for name, (found, shape) in shapes.items():
                if found != (len(batch), *shape):
                    raise ModelError(
                        f"the attribution of parameter {name!r} has shape {found}: expected "
                        f"{shape}, or {(len(batch), *shape)} per sample"
                    )
            flat = (a.double().reshape(len(batch), -1) for a in attributions.values())
            return sum(a.sum(1) for a in flat) - change

    def score(
        self,
        loader: Iterable[Any],
        *,
        reducer: str | Reducer,
        n_steps: int = 16,
        method: str | Rule | Adaptive = "gausslegendre",
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        checkpoint: str | FilePath | None = None,
    ) -> Scores:
        """Stream samples into one score a unit: the mean of the summed magnitudes.

            S_u = 1/|X| Σ_{x in X} Σ_{i in u} |A_i(x)|

        Args:
            loader: any iterable of `(inputs, targets)` batches, or of tensors if the objective
                needs no target. They are moved to where it computes.
            reducer: the units: `"scalar"`, `"kernel"`, `"output_channel"`, `"input_channel"`,
                `"layer"`, or a callable (see `paramattr.units.reducers`).
            n_steps: as in `attribute`.
            method: as in `attribute`.
            internal_batch_size: samples of a batch that are differentiated at once, as in
                `attribute` with `per_sample`; one by default, since each needs its own absolute
                value.
            show_progress: draw a bar on stderr.
            checkpoint: a file that keeps the sums after each batch; a call that is repeated with
                it after an error or a kill goes on where it stopped. The loader must give the
                same batches in the same order.

        Returns:
            Scores of all units; parameters that are not reported count as zero.

        Raises:
            ParamattrError: what `attribute` raises, and for an unknown reducer, an empty loader
                or a checkpoint of other settings.

        Source: Xie et al. 2021, each term of Eq. 7.
        """
        with undisturbed(self.model, self.device):
            _check_count("internal_batch_size", internal_batch_size, ", or None")
            index = UnitIndex.of(self.model, reducer)
            integral = self._integral(
                n_steps, method, lambda sums: index.reduce({n: a.abs() for n, a in sums.items()})
            )

            narrow, at_once = PrecisionCheck(integral, stacklevel=7), internal_batch_size or 1

            def check(batch: Batch) -> None:
                if len(batch) > 1:  # what is wrong shows before the work; else at the first node
                    integral.values(0.0, batch, 1)
                narrow(batch)

            def attributions(one: PathIntegral, part: Batch) -> Iterator[Attributions]:
                return map(itemgetter(0), one.samples(part, whole=False, at_once=at_once))

            return mean_magnitude(
                [partial(attributions, one) for one in integral.replicas(self.workers)],
                loader,
                index,
                device=integral.device,
                at_once=at_once,
                check=check,
                checkpoint=checkpoint,
                settings=None if checkpoint is None else integral.settings(),
                show_progress=show_progress,
            )

    def _begin(
        self,
        inputs: Any,
        targets: Any,
        extra: Any,
        n_steps: int,
        method: str | Rule | Adaptive,
        internal_batch_size: int | None,
    ) -> tuple[Batch, PathIntegral, int]:
        _check_count("internal_batch_size", internal_batch_size, ", or None")
        integral = self._integral(n_steps, method)
        batch = Batch.of(inputs, targets, extra, device=integral.device)
        return batch, integral, internal_batch_size or len(batch)

    def _integral(
        self, n_steps: int, method: str | Rule | Adaptive, magnitudes: Magnitudes | None = None
    ) -> PathIntegral:
        self._check_workers(method)
        objective = ObjectiveOfParameters(
            self.model, self.objective, dtype=self.dtype, compile=self.compile
        )
        if isinstance(method, str) and method == "adaptive":
            method = Adaptive()
        if isinstance(method, Adaptive):
            integral = AdaptiveIntegral(objective, self._path(), method, self._reported, magnitudes)
            self.spent = integral.spent
            return integral
        rule = get_rule(method, n_steps)
        return PathIntegral(objective, self._path(), rule, self._reported)

    def _check_workers(self, method: str | Rule | Adaptive) -> None:
        device = self.device or next(self.model.parameters()).device
        adaptive = isinstance(method, Adaptive) or (
            isinstance(method, str) and method == "adaptive"
        )
        refused = {
            f"device {device}": torch.device(device).type != "cpu",
            "compile=True": self.compile,
            'method="adaptive"': adaptive,
        }
        for what, holds in refused.items():
            if self.workers > 1 and holds:
                raise ParamattrError(
                    f"workers is {self.workers} with {what}, which takes one sample after the "
                    "other: expected the CPU, no compile and a rule of fixed nodes; take workers=1"
                )

    def _path(self) -> Path:
        # Aligned anew at each call: the models may have been moved or trained on since.
        own = named_parameters(self.model)
        aligned = align(self.model, self.baseline)
        if self.device is not None:
            own, aligned = (
                {name: value.to(self.device) for name, value in side.items()}
                for side in (own, aligned)
            )
        if all(torch.equal(own[name], aligned[name]) for name in own):
            raise ModelError(
                "the baseline equals the model in every parameter: there is no change to "
                "attribute; give the model from before the fine-tuning as the baseline"
            )
        if self._given_path is None:
            return StraightLine(own, aligned)
        check_ends(self._given_path, own, aligned)
        return FittedPath(self._given_path, own)


FAIG = ParameterPathIntegratedGradients


def _check_count(label: str, count: int | None, or_none: str = "") -> None:
    if count is not None and (
        isinstance(count, bool) or not isinstance(count, Integral) or count < 1
    ):
        raise ParamattrError(
            f"{label} is {count!r}: expected a whole number of at least 1{or_none}"
        )

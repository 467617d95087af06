"""The paper's modified IG: gradients of the parameters, integrated along a path of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from paramattr.errors import DataError, ObjectiveError
from paramattr.files.reading import fingerprint
from paramattr.identity import likeness, stamped
from paramattr.integration.accumulation import Reduction, Sums
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import (
    ObjectiveOfParameters,
    check_finite_gradients,
    check_finite_values,
)
from paramattr.integration.model import FunctionalModel
from paramattr.objectives import (
    Objective,
    SelfReference,
    check_callable,
    summed_output,
)
from paramattr.parameters import named_parameters, pick
from paramattr.quadrature import Rule, get_rule
from paramattr.runtime.compute import Compute
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.ranks import Distributed, Ranks, sketch
from paramattr.scoring.request import Conditions, Loaders, One, Reducers, Request, Several
from paramattr.scoring.run import Options, stream
from paramattr.scoring.state import Sample
from paramattr.units.scores import Scores
from paramattr.wrappers import unwrapped


class InputPathIntegratedGradients:
    """Integrate the gradient of the parameters while the input, not the model, changes.

        A_i(x) = ∫_0^1 ∂L(θ, x' + α (x - x')) / ∂θ_i dα

    with x' the baseline input (in the study, the clean image) and x the input (the degraded one).
    The method looks at a single model. It multiplies by no difference, so it is not complete.

    Args:
        model: the target, in evaluation mode.
        objective: `(output, None)` to a tensor `(B,)`; the paper's is the sum of the output.
        parameters: the parameters to report, as in `FAIG`.

    Raises:
        ModelError: if `parameters` does not fit the model.
        ObjectiveError: for an objective that cannot be called, or `self_reference`.

    Source: Xie et al. 2021, Sec. 5.2.1 ("modified IG"); after IntInf, Leino et al. 2018.

    >>> model = torch.nn.Linear(1, 1)
    >>> inputs, baselines = torch.ones(1, 1), torch.zeros(1, 1)
    >>> InputPathIntegratedGradients(model).attribute(inputs, baselines)["weight"]
    tensor([[0.5000]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: Objective = summed_output,
        parameters: Iterable[str] | Callable[[str, Tensor], bool] | None = None,
    ) -> None:
        check_callable(objective)
        if isinstance(objective, SelfReference):
            raise ObjectiveError(
                "self_reference needs targets, and a path of inputs has none: expected an "
                "objective of the output alone, such as paramattr.summed_output"
            )
        self.model, self.objective = unwrapped(model), objective
        self._reported = pick(self.model, parameters)

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Tensor | tuple[Tensor, ...],
        n_steps: int = 16,
        method: str | Rule = "gausslegendre",
        *,
        per_sample: bool = False,
    ) -> dict[str, Tensor]:
        """Integrate along the line from `baselines` to `inputs`.

        Args:
            inputs: floating-point, a tensor or a tuple of tensors, `(B, ...)`.
            baselines: of the same shapes.
            n_steps: nodes of the rule.
            method: as in `FAIG.attribute`, except `"adaptive"`.
            per_sample: whether to keep the samples apart.

        Returns:
            Names to attributions shaped like the parameters, summed over the batch, or
            `(B, *shape)` with `per_sample`.

        Raises:
            DataError: if the two do not match, or hold integers (tokens have no path).
            ModelError: if the model is in training mode.
            ObjectiveError: if the objective does not give one finite number per sample.
        """
        with undisturbed(self.model):
            parameters, rule, function = self._begin(method, n_steps)
            batch = _checked(Batch.of(inputs, baselines, device=_device(parameters)))
            if not per_sample:
                return self._over(function, parameters, rule, batch)
            parts = [self._over(function, parameters, rule, sample) for sample in batch.chunks(1)]
            return {name: torch.stack([part[name] for part in parts]) for name in self._reported}

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
    def score(  # type: ignore[misc]
        self,
        loader: Loaders,
        *,
        reducer: Reducers,
        n_steps: int = 16,
        method: str | Rule = "gausslegendre",
        show_progress: bool = False,
        checkpoint: str | Path | None = None,
        distributed: Distributed = False,
    ) -> Any:
        """Stream `(inputs, baselines)` batches into one score per unit, as `FAIG.score` does.

        Args:
            loader: any iterable of `(inputs, baselines)` batches.
            reducer: the units.
            n_steps: as in `attribute`.
            method: as in `attribute`.
            show_progress: show a progress bar on stderr.
            checkpoint: as in `FAIG.score`.
            distributed: as in `FAIG.score`.

        Returns:
            Scores of all units, not negative.

        Raises:
            ParamattrError: as `attribute`, and for an unknown reducer, an empty loader or a
                checkpoint with other settings.
        """
        ranks = Ranks(distributed)
        with ranks.together(), undisturbed(self.model):
            parameters, rule, function = self._begin(method, n_steps)
            request = Request(self.model, loader, reducer)
            if ranks.size > 1:
                ranks.compare("the model", sketch(parameters))
                ranks.compare("the objective", likeness(self.objective))
                ranks.compare("the settings", likeness([rule, self._reported]))

            device = _device(parameters)
            reduction = Reduction(request.indexes, device)

            def work(batch: Batch) -> Iterator[Sample]:
                yield Sample(reduction.of(self._over(function, parameters, rule, batch)))

            settings = None
            if checkpoint is not None:
                settings = {
                    "method": "input path",
                    "rule": rule.settings(),
                    "model": fingerprint([parameters, dict(self.model.named_buffers())]),
                    **stamped("objective", self.objective),
                    "parameters": self._reported,
                }
            state = stream(
                [work],
                request.loaders,
                request.indexes,
                Options(checkpoint=checkpoint, show_progress=show_progress, ranks=ranks),
                read=partial(Batch.from_loader, device=device, model=self.model),
                check=lambda condition, batch: _checked(batch),
                settings=settings,
            )
            return request.answer(state.scores())

    def _begin(
        self, method: str | Rule, n_steps: int
    ) -> tuple[dict[str, Tensor], Rule, ObjectiveOfParameters]:
        parameters = Compute().placed(named_parameters(self.model))
        function = ObjectiveOfParameters(FunctionalModel(self.model), self.objective)
        return parameters, get_rule(method, n_steps), function

    def _over(
        self,
        function: ObjectiveOfParameters,
        parameters: dict[str, Tensor],
        rule: Rule,
        batch: Batch,
    ) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(parameters[name]) for name in self._reported}
        sums, values = Sums(zeros, is_zero=True), []
        for alpha, weight in zip(rule.nodes, rule.weights, strict=True):
            gradients = function.gradient(parameters, _at(batch, alpha), self._reported)
            values.append(gradients.values)
            sums.add_all(gradients.by_name, weight)
        check_finite_values(values, batch.first, batch.step)
        check_finite_gradients(sums.room, batch)
        return sums.room


def _at(batch: Batch, alpha: float) -> Batch:
    """Interpolate from the baselines, stored as the batch's targets, to the inputs."""
    ends = zip(_as_tuple(batch.targets), batch.inputs, strict=True)
    return replace(batch, inputs=tuple(torch.lerp(*both, alpha) for both in ends), targets=None)


def _device(parameters: dict[str, Tensor]) -> torch.device:
    return next(iter(parameters.values())).device


def _as_tuple(tensors: Any) -> tuple[Any, ...]:
    return tuple(tensors) if isinstance(tensors, tuple | list) else (tensors,)


def _checked(batch: Batch) -> Batch:
    baselines = _as_tuple(batch.targets)
    shapes = [tuple(tensor.shape) for tensor in batch.inputs]
    baseline_shapes = [
        tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor) for tensor in baselines
    ]
    if shapes != baseline_shapes:
        raise DataError(
            f"the inputs have shapes {shapes} and the baselines {baseline_shapes}: expected a "
            "baseline of each input's shape; pass (inputs, baselines)"
        )
    for tensor in (*batch.inputs, *baselines):
        if not tensor.is_floating_point():
            raise DataError(
                f"the inputs or baselines are {tensor.dtype}: expected floating-point numbers, "
                "since a path connects them; integers such as tokens have no path, so pass a model "
                "of their embeddings"
            )
    for tensor, start in zip(batch.inputs, baselines, strict=True):
        if tensor.dtype != start.dtype:
            raise DataError(
                f"the inputs are {tensor.dtype} and the baselines {start.dtype}: expected one "
                "precision for both, the model's"
            )
    return batch

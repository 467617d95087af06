"""The objective of models whose parameters are shards over several processes (FSDP2).

FSDP gathers a module's parameters in hooks around its call and scatters their gradients in hooks
of the backward pass. So the model is called as it is, with the path's shards written into its own,
and is restored afterwards. What is interpolated, multiplied and summed is a shard; only the units'
sums are added over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ObjectiveError
from paramattr.integration.batches import Batch, joined, mapped
from paramattr.integration.gradients import Gradients, check_finite_values, check_shape
from paramattr.integration.integrand import Integrand
from paramattr.integration.reaching import reaching
from paramattr.integration.shards import Shards, reshard
from paramattr.objectives import Objective, SelfReference, prediction
from paramattr.paths import FittedPath, StraightLine
from paramattr.runtime.compute import Compute


def sharded_integrand(shards: Shards, objective: Objective, reported: Sequence[str]) -> Integrand:
    """Give the objective along the straight line between two models' shards.

    Args:
        shards: of both models, inside `with`.
        objective: `(output, targets)` to a tensor `(B,)`.
        reported: the names whose attributions are kept.
    """
    path = FittedPath(_LineInPlace(shards), shards.start)
    function: Any = ShardedObjective(shards, objective)
    return Integrand(function, path, tuple(reported), shards.moving())


class _LineInPlace:
    """A line whose points are written into the model's own shards: each is valid until the next."""

    is_piecewise_linear = True

    def __init__(self, shards: Shards) -> None:
        self.shards, self.line = shards, StraightLine(shards.start, shards.end)

    def evaluate(self, alpha: float) -> dict[str, Tensor]:
        """Write the shards at `alpha`, and give them."""
        shards = self.shards
        reshard(shards.model)
        with torch.no_grad():
            for name, local in shards.locals.items():
                torch.lerp(shards.start[name], shards.end[name], alpha, out=local)
        return dict(shards.locals)

    def derivative(self, alpha: float) -> dict[str, Tensor]:
        """Give the baseline's shards minus the target's."""
        return self.line.derivative(alpha)


class _ShardedModel:
    """What is asked of a model as a function, of one whose shards are written in place."""

    def __init__(self, shards: Shards) -> None:
        self.model, self.compute = shards.model, Compute()
        self.moving: tuple[str, ...] = ()
        self.given_dtype: torch.dtype | None = None
        self._reaching = reaching(shards.model)

    def __call__(self, values: Mapping[str, Tensor], batch: Batch) -> Any:
        """Run the model on the shards that it holds."""
        arguments, keywords = mapped((batch.arguments, batch.keywords), torch.clone)
        with self._reaching:
            return self.model(*arguments, **keywords)


class ShardedObjective:
    """The objective as a function of the shards, as `ObjectiveOfParameters` is of parameters.

    Args:
        shards: of the target, inside `with`.
        objective: `(output, targets)` to a tensor `(B,)`.
    """

    is_batchable = False

    def __init__(self, shards: Shards, objective: Objective) -> None:
        self.shards, self.objective = shards, objective
        self.model = _ShardedModel(shards)

    def values(self, parameters: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, "b"]:
        """Evaluate the objective at the point that was written last.

        Raises:
            ObjectiveError: if the objective does not give one finite number per sample.
        """
        with torch.no_grad():
            values = self._evaluate(parameters, batch)
        reshard(self.shards.model)
        check_finite_values([values], batch.first, batch.step)
        return values

    def gradient(
        self, parameters: Mapping[str, Tensor], batch: Batch, names: Iterable[str]
    ) -> Gradients:
        """Differentiate the objective's sum over the batch, at the point that was written last.

        FSDP averages gradients over the processes, which all have the same samples: the average is
        the gradient.

        Raises:
            ObjectiveError: if the objective does not give one number per sample, does not depend on
                the parameters, or has a gradient that is not finite on any process.
        """
        values = self._evaluate(parameters, batch)
        if not values.requires_grad:
            raise ObjectiveError(
                "the objective does not depend on the parameters: expected a value that autograd "
                "can follow; remove detach(), .item() and no_grad() from model and objective"
            )
        values.sum().backward()
        reshard(self.shards.model)
        by_name = {}
        for name in names:
            gradient: Any = self.shards.parameters[name].grad
            local = self.shards.locals[name]
            by_name[name] = torch.zeros_like(local) if gradient is None else gradient.to_local()
        for parameter in self.shards.parameters.values():
            parameter.grad = None
        finite = all(bool(torch.isfinite(one.sum())) for one in by_name.values())
        if not self.shards.all_of(finite):
            raise ObjectiveError(
                f"the gradient is not finite for sample {batch.first}, somewhere on the path: "
                "expected finite numbers; a square root or logarithm of zero has no finite "
                "gradient, so add a small constant inside it"
            )
        return Gradients(values.detach(), by_name)

    def referenced(
        self, parameters: Callable[[], Mapping[str, Tensor]], batch: Batch, at_once: int
    ) -> Batch:
        """Replace a batch's targets by the target model's outputs, if the objective needs them."""
        if not isinstance(self.objective, SelfReference):
            return batch
        point = parameters()
        with torch.no_grad():
            outputs = [prediction(self.model(point, part)) for part in batch.chunks(at_once)]
        reshard(self.shards.model)
        return replace(batch, targets=joined(outputs))

    def _evaluate(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        values = self.objective(self.model(parameters, batch), batch.targets)
        check_shape(values, len(batch))
        return values

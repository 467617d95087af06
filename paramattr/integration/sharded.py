"""The objective of models whose parameters are shards over several processes (FSDP2).

FSDP gathers a module's parameters in hooks around its call and scatters their gradients in hooks
of the backward pass. So the model is called as it is, with the path's shards written into its own,
and is restored afterwards. What is interpolated, multiplied and summed is a shard; only the units'
sums are added over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ObjectiveError
from paramattr.integration.batches import Batch, joined, mapped
from paramattr.integration.gradients import check_finite_values, check_shape
from paramattr.integration.integrand import Integrand
from paramattr.integration.path_integral import Integrated, Values, place
from paramattr.integration.points import PointsInPlace
from paramattr.integration.reaching import reaching
from paramattr.integration.shards import Shards, reshard
from paramattr.objectives import Objective, SelfReference, prediction
from paramattr.paths import FittedPath, StraightLine
from paramattr.quadrature import Rule
from paramattr.runtime.compute import Compute


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
    """The objective at the point that was written into the model's shards last.

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
            values = self._evaluate(batch)
        reshard(self.shards.model)
        check_finite_values([values], batch.first, batch.step)
        return values

    def backward(self, batch: Batch, weight: float) -> Float[Tensor, "b"]:
        """Add the weighted gradients at the point that was written last to the shards' own.

        FSDP averages gradients over the processes, which all have the same samples: the average is
        the gradient.

        Raises:
            ObjectiveError: if the objective does not give one number per sample, or does not depend
                on the parameters.
        """
        values = self._evaluate(batch)
        if not values.requires_grad:
            raise ObjectiveError(
                "the objective does not depend on the parameters: expected a value that autograd "
                "can follow; remove detach(), .item() and no_grad() from model and objective"
            )
        (weight * values.sum()).backward()
        reshard(self.shards.model)
        return values.detach()

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

    def _evaluate(self, batch: Batch) -> Tensor:
        values = self.objective(self.model({}, batch), batch.targets)
        check_shape(values, len(batch))
        return values


class ShardedIntegral:
    """The integral over samples of two models' shards, by a rule with fixed nodes.

    On a straight line the gradients are summed over the nodes and multiplied by the change once.
    FSDP adds them up in the parameters' own gradients, so that no process holds two sets of them.

    Args:
        shards: of both models, inside `with`.
        objective: `(output, targets)` to a tensor `(B,)`.
        reported: the names whose attributions are kept.
        rule: nodes and weights on [0, 1].
    """

    def __init__(
        self, shards: Shards, objective: Objective, reported: Sequence[str], rule: Rule
    ) -> None:
        self.shards, self.rule = shards, rule
        self.objective = ShardedObjective(shards, objective)
        function: Any = self.objective  # what looks at the first samples asks for values alone
        path = FittedPath(_LineInPlace(shards), shards.start)
        self.integrand = Integrand(function, path, tuple(reported), PointsInPlace(path))
        moving = shards.moving()
        self.names = [name for name in reported if name in moving]

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch.

        Args:
            batch: samples.
            whole: without effect: no process knows the total.

        Raises:
            ObjectiveError: if the objective, or a gradient on any process, is not finite.
        """
        shards, values = self.shards, list[Tensor]()
        nodes = place(self.rule.nodes, self.rule.weights, 0.0, 1.0) if self.names else ()
        for node in nodes:
            self.integrand.path.evaluate(node.alpha)
            values.append(self.objective.backward(batch, node.weight))
        check_finite_values(values, batch.first, batch.step)
        found = {}
        for name in self.names:
            gradient: Any = shards.parameters[name].grad
            if gradient is not None:
                change = shards.end[name] - shards.start[name]
                found[name] = gradient.to_local().mul_(change)
        for parameter in shards.parameters.values():
            parameter.grad = None
        if not shards.all_of(all(bool(torch.isfinite(one.sum())) for one in found.values())):
            raise ObjectiveError(
                f"the gradient is not finite for sample {batch.first}, somewhere on the path: "
                "expected finite numbers; a square root or logarithm of zero has no finite "
                "gradient, so add a small constant inside it"
            )
        seen = torch.stack(values) if values else torch.zeros(0, len(batch))
        alphas = tuple(node.alpha for node in nodes)
        nothing = torch.zeros((), dtype=torch.float64)
        return Integrated(found, nothing, Values(alphas, seen))

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample separately, one after the other."""
        return (self.over(sample, whole=whole) for sample in batch.chunks(1))

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        return {**self.integrand.settings(), "rule": self.rule.settings()}

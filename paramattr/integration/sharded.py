"""The objective of models whose parameters are shards over several processes (FSDP2).

FSDP gathers a module's parameters in hooks around its call and scatters their gradients in hooks
of the backward pass. So the model is called as it is, with the path's shards written into its own,
and is restored afterwards. What is interpolated, multiplied and summed is a shard; only the units'
sums are added over processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ObjectiveError, ParamattrError, one_line
from paramattr.integration.batches import Batch, joined, mapped
from paramattr.integration.gradients import Gradients, Take, check_finite_values, check_shape
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.integration.path_integral import Integrated, Node, Values, place, total_over
from paramattr.integration.points import PointsInPlace
from paramattr.integration.reaching import reaching
from paramattr.integration.reduction import Tally, chunks
from paramattr.integration.shards import LARGE, Shards, in_parts, reshard
from paramattr.integration.sums import Sample, totalled
from paramattr.objectives import Objective, SelfReference, prediction
from paramattr.paths import FittedPath, StraightLine
from paramattr.quadrature import Rule
from paramattr.runtime.compute import Compute
from paramattr.runtime.halving import is_out_of_memory
from paramattr.runtime.memory import give_back_free, giving_back_after
from paramattr.runtime.ranks import Ranks
from paramattr.units.index import UnitIndex


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

    def derivative_of(
        self, name: str, alpha: float, rows: slice | Tensor, out: Tensor | None = None
    ) -> Tensor:
        """Give some rows of one parameter's derivative."""
        return self.line.derivative_of(name, alpha, rows, out)

    def moving(self, alpha: float) -> list[str]:
        """List what moves on any process."""
        return sorted(self.shards.moving())


class _ShardedModel:
    """What is asked of a model as a function, of one whose shards are written in place."""

    def __init__(self, shards: Shards) -> None:
        self.model, self.compute = shards.model, Compute()
        self.moving: tuple[str, ...] = ()
        self.given_dtype: torch.dtype | None = None
        self._reaching, self._large = reaching(shards.model), shards.large()

    def __call__(self, values: Mapping[str, Tensor], batch: Batch) -> Any:
        """Run the model on the shards that it holds."""
        arguments, keywords = mapped((batch.arguments, batch.keywords), torch.clone)
        with self._reaching, giving_back_after(self._large):
            return self.model(*arguments, **keywords)


class ShardedObjective:
    """The objective at the point that was written into the model's shards last.

    Args:
        shards: of the target, inside `with`.
        objective: `(output, targets)` to a tensor `(B,)`.
        ranks: the processes that take part.
    """

    is_batchable = False

    def __init__(self, shards: Shards, objective: Objective, ranks: Ranks) -> None:
        self.shards, self.objective, self.ranks = shards, objective, ranks
        self.model = _ShardedModel(shards)

    def values(self, parameters: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, "b"]:
        """Evaluate the objective at the point that was written last.

        Raises:
            ObjectiveError: if the objective does not give one finite number per sample.
        """
        try:
            with torch.no_grad():
                values = self._evaluate(batch, is_last=True)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Halved on one process alone, samples would be gathered for with others' parameters.
            raise ParamattrError(
                f"the device has no room for {len(batch)} samples ({one_line(error)}), and the "
                "model is sharded: give a smaller internal_batch_size, or shards over more "
                "processes"
            ) from error
        reshard(self.shards.model)
        return values

    def backward(self, batch: Batch, take: Take) -> Float[Tensor, "b"]:
        """Differentiate at the point that was written last, and hand each gradient over.

        FSDP averages gradients over the processes, which all have the same samples: the average is
        the gradient.

        Args:
            batch: samples.
            take: as in `Shards.handing_over`.

        Raises:
            ObjectiveError: if the objective does not give one number per sample, or does not depend
                on the parameters.
        """
        values = self._evaluate(batch)
        left = LARGE

        def handed(name: str, gradient: Tensor) -> None:
            nonlocal left
            left -= gradient.nbytes
            if left <= 0 and gradient.device.type == "cpu":
                left = LARGE
                give_back_free()
            take(name, gradient)

        with self.shards.handing_over(handed):
            values.sum().backward()
        reshard(self.shards.model)
        return values.detach()

    def gradient(
        self, parameters: Mapping[str, Tensor], batch: Batch, names: Sequence[str], take: Take
    ) -> Gradients:
        """Do what `ObjectiveOfParameters.gradient` does, at the point that was written last."""
        wanted = frozenset(names)

        def of_wanted(name: str, gradient: Tensor) -> None:
            if name in wanted:
                take(name, gradient)

        return Gradients(self.backward(batch, of_wanted), {})

    def of_all_shards(self, slopes: dict[str, float]) -> dict[str, float]:
        """Add up what each process found of its shards."""
        return self.shards.summed(slopes)

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

    def _evaluate(self, batch: Batch, *, is_last: bool = False) -> Tensor:
        """Evaluate, and go on where that went well on every process.

        Args:
            batch: samples.
            is_last: whether no gradient is asked for.
        """
        output = self.model({}, batch)
        with self.ranks.agreeing(self.shards.all_of):
            return self._checked(output, batch, is_last=is_last)

    def _checked(self, output: Any, batch: Batch, *, is_last: bool) -> Tensor:
        # Cloned, since the objective may modify them, as the model may modify its inputs.
        values = self.objective(output, mapped(batch.targets, torch.clone))
        check_shape(values, len(batch))
        if is_last:
            check_finite_values([values], batch.first, batch.step)
        elif not values.requires_grad:
            raise ObjectiveError(
                "the objective does not depend on the parameters: expected a value that autograd "
                "can follow; remove detach(), .item() and no_grad() from model and objective"
            )
        return values


class ShardedIntegral:
    """The integral over samples of two models' shards, by a rule with fixed nodes.

    On a straight line the gradients are summed over the nodes and multiplied by the change once.

    Args:
        shards: of both models, inside `with`.
        objective: `(output, targets)` to a tensor `(B,)`.
        reported: the names whose attributions are kept.
        rule: nodes and weights on [0, 1].
        ranks: the processes that take part.
    """

    def __init__(
        self,
        shards: Shards,
        objective: Objective,
        reported: Sequence[str],
        rule: Rule,
        ranks: Ranks,
    ) -> None:
        self.shards, self.rule, self.ranks = shards, rule, ranks
        self.objective = ShardedObjective(shards, objective, ranks)
        function: Any = self.objective  # what looks at the first samples asks for values alone
        path = FittedPath(_LineInPlace(shards), shards.start)
        self.integrand = Integrand(function, path, tuple(reported), PointsInPlace(path))
        self.moving = shards.moving()
        self.names = dict.fromkeys(name for name in reported if name in self.moving)
        self._sums: Attributions = {}

    @property
    def reports_all(self) -> bool:
        """Say whether all that moves is reported."""
        return self.moving.issubset(self.names)

    def total(self, sample: Batch) -> float:
        """Sum the attributions of a sample over all that moves, on all processes."""
        nodes = place(self.rule.nodes, self.rule.weights, 0.0, 1.0)
        return total_over(self.integrand, nodes, sample)

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch.

        Args:
            batch: samples.
            whole: without effect: no process knows the total.

        Returns:
            The integral. Its attributions' memory is written anew at the next call.

        Raises:
            ObjectiveError: if the objective, or a gradient on any process, is not finite.
        """
        found: Attributions = {}
        values = self._through(batch, found.__setitem__, as_they_come=False)
        if not self.shards.all_of(all(bool(torch.isfinite(one.sum())) for one in found.values())):
            raise not_finite(batch)
        return Integrated(found, torch.zeros((), dtype=torch.float64), values)

    def tallied(self, batch: Batch, tally: Tally) -> Values:
        """Integrate the objective's sum over a batch, and sum it over units as gradients come.

        At the last node each gradient is finished, summed and released while the backward pass
        still goes on, so that no process ever holds all of them; with one node no sums either.

        Args:
            batch: samples.
            tally: what the attributions are added to.

        Raises:
            ObjectiveError: if the objective is not finite.
        """
        return self._through(batch, tally.add_whole, as_they_come=True)

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample separately, one after the other."""
        return (self.over(sample, whole=whole) for sample in batch.chunks(1))

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        return {**self.integrand.settings(), "rule": self.rule.settings()}

    def _through(self, batch: Batch, finish: Take, *, as_they_come: bool) -> Values:
        """Take a batch through the nodes, and finish each parameter's attributions.

        Args:
            batch: samples.
            finish: called with a name and its attributions, once for each.
            as_they_come: whether in the last pass, and not after it.
        """
        values, held, finished = list[Tensor](), set[str](), set[str]()
        nodes = place(self.rule.nodes, self.rule.weights, 0.0, 1.0) if self.names else ()

        def take(node: Node, name: str, gradient: Tensor) -> None:
            if name in finished:
                raise in_parts(name)
            if name in self.names and as_they_come and node is nodes[-1]:
                gradient.mul_(node.weight)
                if name in held:
                    gradient.add_(self._sums[name])
                finished.add(name)
                finish(name, self._product(name, gradient))
            elif name in self.names:
                self._add(name, gradient, node.weight, anew=name not in held)
                held.add(name)

        for node in nodes:
            self.integrand.path.evaluate(node.alpha)
            values.append(self.objective.backward(batch, partial(take, node)))
        check_finite_values(values, batch.first, batch.step)
        for name in self.names:
            if name in held - finished:
                finish(name, self._product(name, self._sums[name]))
        seen = torch.stack(values) if values else torch.zeros(0, len(batch))
        return Values(tuple(node.alpha for node in nodes), seen)

    def _add(self, name: str, gradient: Tensor, weight: float, *, anew: bool) -> None:
        if not anew:
            self._sums[name].add_(gradient, alpha=weight)
        elif name in self._sums:
            torch.mul(gradient, weight, out=self._sums[name])
        else:
            self._sums[name] = gradient * weight

    def _product(self, name: str, total: Tensor) -> Tensor:
        """Multiply the sum of a parameter's gradients by its change, in place."""
        start, end = self.shards.start[name], self.shards.end[name]
        for rows in chunks(total):
            total[rows].mul_(end[rows] - start[rows])
        return total


class ShardedSamples:
    """What is done with a batch of samples: each is integrated and summed over units.

    Args:
        integral: of both models' shards.
        indexes: name of a set of units to the units, of the whole parameters.
        function: applied to each sample's attributions before they are summed; None for none.
    """

    def __init__(
        self,
        integral: ShardedIntegral,
        indexes: Mapping[str, UnitIndex],
        function: Callable[[Attributions], Attributions] | None,
    ) -> None:
        self.integral, self.function = integral, function
        self.reduction = integral.shards.reduction(indexes)

    def __call__(self, batch: Batch) -> Iterator[Sample]:
        """Give each sample's sums over all processes.

        Raises:
            ObjectiveError: if the objective, or a gradient on any process, is not finite.
        """
        samples = self._samples(batch)
        yield from totalled(self.integral, samples, batch) if self.function is None else samples

    def _samples(self, batch: Batch) -> Iterator[Sample]:
        for sample in batch.chunks(1):
            if self.function is None:
                tally = Tally(self.reduction)
                values = self.integral.tallied(sample, tally)
                own = tally.reduced()
            else:
                found = self.integral.over(sample, whole=False)
                with self.integral.ranks.agreeing(self.integral.shards.all_of):
                    own = self.reduction.of(self.function(found.attributions))
                values = found.values
            sums = {name: self.integral.shards.added(one) for name, one in own.items()}
            for one in sums.values():  # the same on every process
                if not math.isfinite(float(one.magnitudes.sum()) + one.rest):
                    raise not_finite(sample)
            yield Sample(sums, values)


def not_finite(batch: Batch) -> ObjectiveError:
    """Give the error of a gradient that is not finite on some process."""
    return ObjectiveError(
        f"the gradient is not finite for sample {batch.first}, somewhere on the path: "
        "expected finite numbers; a square root or logarithm of zero has no finite "
        "gradient, so add a small constant inside it"
    )

"""Models whose parameters are shards over several processes (FSDP2, `fully_shard`).

FSDP gathers a module's parameters in hooks around its call and scatters their gradients in hooks
of the backward pass. So the model is called as it is, with the path's shards written into its own,
and is restored afterwards. What is interpolated, multiplied and summed is a shard; only the units'
sums are added over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.buffers import moving_buffers
from paramattr.errors import ModelError, ObjectiveError
from paramattr.integration.adaptive import Adaptive
from paramattr.integration.batches import Batch, joined, mapped
from paramattr.integration.gradients import Gradients, check_finite_values, check_shape
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.integration.partitions import Reduce
from paramattr.integration.path_integral import Integral, PathIntegral
from paramattr.integration.reaching import reaching
from paramattr.integration.sums import Reduced, reduced
from paramattr.objectives import Objective, SelfReference, prediction
from paramattr.parameters import Baseline, is_shard, named_parameters, pick, state_of
from paramattr.paths import FittedPath, StraightLine
from paramattr.quadrature import Rule, get_rule
from paramattr.runtime.compute import Compute
from paramattr.runtime.isolation import check_evaluating
from paramattr.units.index import UnitIndex


class Shards:
    """This process's shards of two models; inside `with`, the target's may be written over.

    Args:
        model: the target, sharded by `fully_shard` over a mesh of one dimension.
        baseline: sharded in the same way, or a plain model or mapping, whose shards are cut out.

    Attributes:
        group: the processes that hold the other shards.
        members: their numbers in the world.
        start: the target's shards; a copy while inside `with`.
        end: the baseline's.

    Raises:
        ModelError: for parameters that are no shards, hybrid meshes, half precision, buffers that
            differ, or a baseline that does not fit.
    """

    def __init__(self, model: nn.Module, baseline: Baseline) -> None:
        check_evaluating(model)
        self.model = model
        self.parameters: dict[str, Any] = {
            n: model.get_parameter(n) for n in named_parameters(model)
        }
        self.places = {name: _places(name, p) for name, p in self.parameters.items()}
        first = next(iter(self.parameters.values()))
        if any(p.device_mesh != first.device_mesh for p in self.parameters.values()):
            raise ModelError("the parameters are sharded over several meshes: expected one mesh")
        self.group = first.device_mesh.get_group()
        self.members = dist.get_process_group_ranks(self.group)
        if moving_buffers(model, baseline):
            raise ModelError(
                "the models' buffers differ, and the model is sharded: expected equal buffers; "
                "score one process's models, whose buffers move along the path"
            )
        self.locals = {name: p.detach().to_local() for name, p in self.parameters.items()}
        self.start = dict(self.locals)
        self.end = self._aligned(baseline)
        self._gradients: dict[str, Any] = {}
        self._needed: dict[str, bool] = {}
        self._check()

    def __enter__(self) -> Shards:
        """Keep a copy of the target's shards, and let every parameter have a gradient."""
        self.start = {name: local.clone() for name, local in self.locals.items()}
        for name, parameter in self.parameters.items():
            self._gradients[name], self._needed[name] = parameter.grad, parameter.requires_grad
            parameter.grad = None
            parameter.requires_grad_(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the model."""
        with torch.no_grad():
            for name, local in self.locals.items():
                local.copy_(self.start[name])
        self.start = dict(self.locals)
        for name, parameter in self.parameters.items():
            parameter.grad = self._gradients[name]
            parameter.requires_grad_(self._needed[name])

    def integral(
        self, objective: Objective, wanted: Any, method: str | Rule | Adaptive, n_steps: int
    ) -> Integral:
        """Give the integral along the straight line; for use inside `with`.

        Args:
            objective: `(output, targets)` to a tensor `(B,)`.
            wanted: what is reported, as in `FAIG`.
            method: a rule with fixed nodes, or its name.
            n_steps: its nodes.

        Raises:
            ModelError: for an adaptive rule, which needs all parameters' sums at once.
        """
        if isinstance(method, Adaptive) or method == "adaptive":
            raise ModelError(
                'method="adaptive" needs the attributions of all parameters at once, and the model '
                "is sharded: expected a rule with fixed nodes"
            )
        return PathIntegral(self._integrand(objective, wanted), get_rule(method, n_steps))

    def check_score(self, partitions: int) -> None:
        """Refuse several partitions of shards.

        Raises:
            ModelError: for more than one.
        """
        if partitions > 1:
            raise ModelError(
                f"partitions is {partitions} and the model is sharded: FSDP makes all gradients in "
                "each pass, so nothing is saved; use partitions=1, or more processes"
            )

    def _integrand(self, objective: Objective, wanted: Any) -> Integrand:
        path = FittedPath(_LineInPlace(self), self.start)
        function: Any = ShardedObjective(self, objective)
        return Integrand(function, path, tuple(pick(self.model, wanted)), self._moving())

    def reduce(
        self,
        indexes: Mapping[str, UnitIndex],
        function: Callable[[Attributions], Attributions],
    ) -> Reduce:
        """Give the reduction of one sample's shards to units, summed over the processes.

        Args:
            indexes: name of a set of units to the units, of the whole parameters.
            function: applied to each sample's attributions.
        """
        own = {name: self._cut(index) for name, index in indexes.items()}

        def summed(attributions: Attributions) -> dict[str, Reduced]:
            values = function(attributions)
            return {name: self._added(reduced(values, index)) for name, index in own.items()}

        return summed

    def all_of(self, flag: bool) -> bool:
        """Say whether it is so on every process."""
        found = torch.tensor(int(flag), device=next(iter(self.locals.values())).device)
        dist.all_reduce(found, op=dist.ReduceOp.MIN, group=self.group)
        return bool(found)

    def _moving(self) -> frozenset[str]:
        """List what moves on any process: all must take part in the same gradients."""
        names = list(self.start)
        device = next(iter(self.locals.values())).device
        own = [int(not torch.equal(self.start[name], self.end[name])) for name in names]
        flags = torch.tensor(own, device=device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return frozenset(name for name, flag in zip(names, flags.tolist(), strict=True) if flag)

    def _added(self, own: Reduced) -> Reduced:
        device = next(iter(self.locals.values())).device
        rest = torch.tensor([own.rest], dtype=torch.float64)
        sums = torch.cat([own.magnitudes, own.signed, rest]).to(device)
        dist.all_reduce(sums, group=self.group)
        units = len(own.magnitudes)
        magnitudes, signed, rest = sums.cpu().split([units, units, 1])
        return Reduced(magnitudes, signed, float(rest))

    def _cut(self, index: UnitIndex) -> UnitIndex:
        labels = {
            name: of_all[
                tuple(
                    slice(None) if size == 1 else place
                    for size, place in zip(of_all.shape, self.places[name], strict=True)
                )
            ]
            for name, of_all in index.labels.items()
        }
        return UnitIndex(index.shapes, labels, index.groups)

    def _aligned(self, baseline: Baseline) -> dict[str, Tensor]:
        other, found = state_of(baseline), {}
        for name, parameter in self.parameters.items():
            value = other.get(name)
            if value is None or value.shape != parameter.shape:
                there = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise ModelError(
                    f"parameter {name!r} of shape {tuple(parameter.shape)} is {there} in the "
                    "baseline: expected two models of one architecture"
                )
            own = self.locals[name]
            if is_shard(value):
                shard: Any = value
                if shard.device_mesh != parameter.device_mesh or (
                    shard.placements != parameter.placements
                ):
                    raise ModelError(
                        f"parameter {name!r} is sharded in another way in the baseline: expected "
                        "fully_shard of the same modules over the same mesh, or a plain model"
                    )
                found[name] = shard.detach().to_local().to(own)
            else:
                found[name] = value.detach()[self.places[name]].to(own, copy=True)
        return found

    def _check(self) -> None:
        sides = {"the model": self.start, "the baseline": self.end}
        for side, values in sides.items():
            finite = all(bool(torch.isfinite(value.sum())) for value in values.values())
            if not self.all_of(finite):
                raise ModelError(
                    f"a parameter of {side} is not finite: expected finite numbers; use a "
                    "checkpoint from before the training diverged"
                )
        if self.all_of(all(torch.equal(self.start[n], self.end[n]) for n in self.start)):
            raise ModelError(
                "the baseline equals the model in every parameter: there is no change to "
                "attribute; pass the model from before the fine-tuning as the baseline"
            )


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


def is_sharded(model: nn.Module) -> bool:
    """Say whether a model's parameters are shards; what a forward pass gathered is given back."""
    reshard(model)
    return any(is_shard(parameter) for parameter in model.parameters())


def reshard(model: nn.Module) -> None:
    """Give back whole parameters that FSDP kept after a forward pass without a backward pass."""
    for module in model.modules():
        give_back = getattr(module, "reshard", None)
        if give_back is not None and hasattr(module, "unshard"):
            give_back()


def check_options(path: object, compute: Compute, *, strict: bool) -> None:
    """Refuse what sharded models do not have.

    Raises:
        ModelError: naming the option.
    """
    refused = {
        "path": path is not None,
        "device": compute.device is not None,
        "dtype": compute.dtype is not None,
        "compile": compute.compile,
        "workers": compute.workers > 1,
        "strict=False": not strict,
    }
    for option, holds in refused.items():
        if holds:
            raise ModelError(
                f"{option} is given, and the model is sharded: expected the straight line and the "
                "machine and precision that fully_shard was given; leave it out"
            )


def _places(name: str, parameter: Any) -> tuple[slice, ...]:
    """Give where a parameter's shard lies in it."""
    if not is_shard(parameter):
        raise ModelError(
            f"parameter {name!r} is no shard, and others are: expected every parameter to be "
            "sharded; call fully_shard on the whole model last"
        )
    if parameter.dtype.itemsize < torch.float32.itemsize:
        raise ModelError(
            f"parameter {name!r} is {parameter.dtype}, and sharded: the path would be rounded to "
            "it; expected float32, with MixedPrecisionPolicy(param_dtype=...) for the computation"
        )
    mesh = parameter.device_mesh
    if mesh.ndim != 1 or not parameter.placements[0].is_shard():
        raise ModelError(
            f"parameter {name!r} lies on a mesh of {mesh.ndim} dimensions as "
            f"{parameter.placements}: expected shards over one dimension; where there are "
            "replicas, shard over the mesh's own dimension alone, fully_shard(model, "
            "mesh=mesh['shard']), and give distributed=mesh['replicate'].get_group()"
        )
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, start = compute_local_shape_and_global_offset(
        parameter.shape, mesh, parameter.placements
    )
    return tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))

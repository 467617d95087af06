"""Models whose parameters are shards over several processes (FSDP2, `fully_shard`).

FSDP gathers a module's parameters in hooks around its call and scatters their gradients in hooks
of the backward pass. So the model is called as it is, with the path's shards written into its own,
and is restored afterwards. What is interpolated, multiplied and summed is a shard; only the units'
sums are added over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import ModelError, ObjectiveError, ParamattrError, one_line
from paramattr.integration.accumulation import Reduced, Reduction
from paramattr.integration.batches import Batch, joined, mapped
from paramattr.integration.gradients import (
    Gradients,
    Take,
    came_in_parts,
    check_finite_values,
    check_shape,
)
from paramattr.integration.integrand import Integrand, PointsInPlace
from paramattr.integration.operations import reaching
from paramattr.objectives import Objective, SelfReference, prediction
from paramattr.parameters import Baseline, is_shard, moving_buffers, named_parameters, state_of
from paramattr.paths import FittedPath, StraightLine
from paramattr.runtime.compute import Compute, is_out_of_memory
from paramattr.runtime.isolation import check_evaluating
from paramattr.runtime.memory import give_back_free, giving_back_after
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.units.index import UnitIndex

LARGE = 2**24
"""Bytes of shards from which on free memory is given back to the system: 16 MiB."""


class Shards:
    """This process's shards of two models; inside `with`, the target's may be written over.

    Args:
        model: the target, sharded by `fully_shard` over a mesh of one dimension.
        baseline: sharded in the same way, or a plain model or mapping, whose shards are cut out.
        ranks: the processes that take part, so that none waits for one that has failed.

    Attributes:
        group: the processes that hold the other shards.
        start: the target's shards; a copy while inside `with`.
        end: the baseline's.

    Raises:
        ModelError: for parameters that are no shards, hybrid meshes, half precision, buffers that
            differ, or a baseline that does not fit.
    """

    def __init__(self, model: nn.Module, baseline: Baseline, ranks: Ranks = ALONE) -> None:
        check_evaluating(model)
        self.model = model
        self.parameters: dict[str, Any] = {
            n: model.get_parameter(n) for n in named_parameters(model)
        }
        # Where each shard lies in its parameter: labels of units are cut alike.
        self.places = {name: _places(name, p) for name, p in self.parameters.items()}
        first = next(iter(self.parameters.values()))
        if any(p.device_mesh != first.device_mesh for p in self.parameters.values()):
            raise ModelError("the parameters are sharded over several meshes: expected one mesh")
        self.group = first.device_mesh.get_group()
        # Buffers are whole on every process, and would be counted once for each.
        if moving_buffers(model, baseline):
            raise ModelError(
                "the models' buffers differ, and the model is sharded: expected equal buffers; "
                "score one process's models, whose buffers move along the path"
            )
        self.locals = {name: p.detach().to_local() for name, p in self.parameters.items()}
        self.start = dict(self.locals)
        self.end = self._aligned(baseline)
        self._before: dict[str, _State] = {}
        # What may fail on one process alone lies before, what all must take part in behind.
        ranks.meet()
        self._check()

    def __enter__(self) -> Shards:
        """Keep a copy of the target's shards, and let every parameter have a gradient."""
        # A copy: the path writes into the model's own memory.
        self.start = {name: local.clone() for name, local in self.locals.items()}
        for name, parameter in self.parameters.items():
            self._before[name] = _State.of(parameter)
            _State(None, True, None).put(parameter)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the model."""
        if kind is not None:
            # An error in a hook leaves FSDP in the middle of its states.
            _begin_anew(self.model)
        with torch.no_grad():
            for name, local in self.locals.items():
                local.copy_(self.start[name])
        self.start = dict(self.locals)
        for name, parameter in self.parameters.items():
            self._before.pop(name).put(parameter)

    def large(self) -> list[nn.Module]:
        """List the modules whose parameters FSDP gathers, and that leave large gaps in a heap."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        found = []
        for module in self.model.modules():
            own = [self.locals[names[id(p)]] for p in module.parameters() if id(p) in names]
            is_on_heap = all(local.device.type == "cpu" for local in own)
            if hasattr(module, "unshard") and is_on_heap and sum(p.nbytes for p in own) >= LARGE:
                found.append(module)
        return found

    @contextmanager
    def handing_over(self, take: Take) -> Iterator[None]:
        """Hand over each parameter's gradient as soon as FSDP has it, and release it.

        Args:
            take: called with a parameter's name and its shard's gradient, which it may overwrite.

        Raises:
            ModelError: if FSDP has left a part of a gradient where it is not added.
        """
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(_hand_over, take, name))
            for name, parameter in self.parameters.items()
            # What FSDP offloads is still on its way when the hook is called.
            if self.locals[name].device.type == parameter.device_mesh.device_type
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, parameter in self.parameters.items():
            _hand_over(take, name, parameter)
        for name, gathered in self.model.named_parameters():
            if gathered.grad is not None:
                gathered.grad = None
                raise came_in_parts(name)

    def reduction(self, indexes: Mapping[str, UnitIndex]) -> Reduction:
        """Give the sums over units of this process's shards.

        Args:
            indexes: name of a set of units to the units, of the whole parameters.
        """
        device = next(iter(self.locals.values())).device
        cut = {name: self._cut(index) for name, index in indexes.items()}
        return Reduction(cut, device, self.added)

    def summed(self, own: Mapping[str, float]) -> dict[str, float]:
        """Add up a number for each parameter over the processes; 0 where one has none."""
        device = next(iter(self.locals.values())).device
        # All processes need the same order and length, also where a shard is empty.
        numbers = [own.get(name, 0.0) for name in self.locals]
        sums = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(sums, group=self.group)
        return dict(zip(self.locals, sums.tolist(), strict=True))

    def added(self, own: Reduced) -> Reduced:
        """Add this process's sums to those of the others."""
        device = next(iter(self.locals.values())).device
        rest = torch.tensor([own.rest, own.total], dtype=torch.float64)
        sums = torch.cat([own.magnitudes, own.signed, rest]).to(device)
        dist.all_reduce(sums, group=self.group)
        units = len(own.magnitudes)
        magnitudes, signed, rest = sums.cpu().split([units, units, 2])
        return Reduced(magnitudes, signed, *rest.tolist())

    def all_of(self, flag: bool) -> bool:
        """Say whether it is so on every process."""
        found = torch.tensor(int(flag), device=next(iter(self.locals.values())).device)
        dist.all_reduce(found, op=dist.ReduceOp.MIN, group=self.group)
        return bool(found)

    def moving(self) -> frozenset[str]:
        """List what moves on any process: all must take part in the same gradients."""
        names = list(self.start)
        device = next(iter(self.locals.values())).device
        own = [int(not torch.equal(self.start[name], self.end[name])) for name in names]
        # A parameter that moves on one process alone needs a gradient on all.
        flags = torch.tensor(own, device=device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return frozenset(name for name, flag in zip(names, flags.tolist(), strict=True) if flag)

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
        other, found = state_of(baseline, self.model), {}
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
        # Freed blocks of large layers leave gaps that a heap keeps.
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
        # All parameters take part: FSDP gathers whole modules.
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
        # Modules whose backward pass did not end keep whole parameters.
        reshard(self.shards.model)
        return values.detach()

    def gradient(
        self,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        names: Sequence[str],
        take: Take | None = None,
    ) -> Gradients:
        """Do what `ObjectiveOfParameters.gradient` does, at the point that was written last."""
        wanted, held = frozenset(names), dict[str, Tensor]()

        def of_wanted(name: str, gradient: Tensor) -> None:
            if name not in wanted:
                return
            if take is not None:
                take(name, gradient)
            else:
                held[name] = held[name].add_(gradient) if name in held else gradient

        # FSDP gives gradients of all, wanted or not.
        values = self.backward(batch, of_wanted)
        for name in wanted if take is None else ():
            if name not in held:
                held[name] = torch.zeros_like(self.shards.locals[name])
        return Gradients(values, held)

    def of_all_shards(self, slopes: dict[str, float]) -> dict[str, float]:
        """Add up what each process found of its shards."""
        return self.shards.summed(slopes)

    def reduction(self, indexes: Mapping[str, UnitIndex], device: torch.device) -> Reduction:
        """Give the sums over units of this process's shards, added up over the processes."""
        return self.shards.reduction(indexes)

    def agreeing(self) -> AbstractContextManager[None]:
        """Go on after a block where it went well on every process that holds a shard."""
        return self.ranks.agreeing(self.shards.all_of)

    def check_gradients(self, sums: Mapping[str, Tensor], batch: Batch) -> None:
        """Reject gradients that are not finite on any process.

        Raises:
            ObjectiveError: naming the sample; no process knows the parameters of the others.
        """
        if not self.shards.all_of(all(bool(torch.isfinite(one.sum())) for one in sums.values())):
            raise ObjectiveError(
                f"the gradient is not finite for sample {batch.first}, somewhere on the path: "
                "expected finite numbers; a square root or logarithm of zero has no finite "
                "gradient, so add a small constant inside it"
            )

    def referenced(
        self, parameters: Callable[[], Mapping[str, Tensor]], batch: Batch, at_once: int
    ) -> Batch:
        """Replace a batch's targets by the target model's outputs, if the objective needs them."""
        if not isinstance(self.objective, SelfReference):
            return batch
        # Written into the model's shards by the call.
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
        with self.agreeing():
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


def integrand_of_shards(
    shards: Shards, objective: Objective, reported: Iterable[str], ranks: Ranks
) -> Integrand:
    """Give the objective along the straight line between two models' shards.

    Args:
        shards: of both models, inside `with`.
        objective: `(output, targets)` to a tensor `(B,)`.
        reported: names whose attributions are kept.
        ranks: the processes that take part.
    """
    function: Any = ShardedObjective(shards, objective, ranks)  # not one of whole models
    path = FittedPath(_LineInPlace(shards), shards.start)
    return Integrand(function, path, tuple(reported), PointsInPlace(path))


class _State(NamedTuple):
    """What a parameter has beside its values.

    Attributes:
        gradient: its gradient.
        needs: whether it needs one.
        hooks: what is called with it once it has one, such as an optimizer's step.
    """

    gradient: Any
    needs: bool
    hooks: Any

    @classmethod
    def of(cls, parameter: Any) -> _State:
        hooks = getattr(parameter, "_post_accumulate_grad_hooks", None)
        return cls(parameter.grad, parameter.requires_grad, hooks)

    def put(self, parameter: Any) -> None:
        parameter._post_accumulate_grad_hooks = self.hooks
        parameter.grad = self.gradient
        parameter.requires_grad_(self.needs)


def is_sharded(model: object) -> bool:
    """Say whether a model's parameters are shards; what a forward pass gathered is given back."""
    if not isinstance(model, nn.Module):
        return False
    reshard(model)
    return any(is_shard(parameter) for parameter in model.parameters())


def members(model: nn.Module) -> list[int]:
    """List the numbers in the world of the processes that hold a model's shards; none if whole."""
    found = next((p for p in model.parameters() if is_shard(p)), None)
    mesh = getattr(found, "device_mesh", None)
    if mesh is None or mesh.ndim != 1:  # the latter is refused later
        return []
    return dist.get_process_group_ranks(mesh.get_group())


def reshard(model: nn.Module) -> None:
    """Give back whole parameters that FSDP kept after a forward pass without a backward pass."""
    for module in model.modules():
        give_back = getattr(module, "reshard", None)
        if give_back is not None and hasattr(module, "unshard"):
            give_back()


def _begin_anew(model: nn.Module) -> None:
    """Bring FSDP out of a pass that an error ended."""
    for module in model.modules():
        begin_anew = getattr(module, "reset_iter_state", None)  # torch 2.13 has it
        if begin_anew is not None:
            # A root does this for all modules in it; it fails for those, and before any pass.
            with suppress(RuntimeError, AttributeError):
                begin_anew()
    reshard(model)


def _hand_over(take: Take, name: str, parameter: Any) -> None:
    gradient, parameter.grad = parameter.grad, None
    if gradient is not None:
        take(name, gradient.to_local())


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

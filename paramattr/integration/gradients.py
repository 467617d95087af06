"""Gradients of the objective with respect to any values of the parameters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from paramattr.errors import ModelError, ObjectiveError, ParamattrError, an
from paramattr.integration.accumulation import Reduction
from paramattr.integration.batches import Batch, joined, mapped, tensors_in
from paramattr.integration.model import FunctionalModel, no_reentrant
from paramattr.integration.operations import Rows
from paramattr.objectives import Objective, SelfReference, prediction
from paramattr.runtime.compute import is_out_of_memory, wide
from paramattr.units.index import UnitIndex

Take = Callable[[str, Tensor], None]
"""What is done with a parameter's gradient as soon as it is known."""

_log = logging.getLogger(__name__)


class Gradients(NamedTuple):
    """The objective and its gradients at one point of the path.

    Attributes:
        values: the objective of each sample, `(B,)`; not checked yet, see `check_finite_values`.
        by_name: names to gradients, shaped like the parameters, or `(B, *shape)` per sample.
    """

    values: Float[Tensor, "b"]
    by_name: dict[str, Tensor]


class ObjectiveOfParameters:
    """The objective as a function of the parameters.

    Args:
        model: the model as a function.
        objective: `(output, targets)` to a tensor `(B,)`.

    Attributes:
        is_batchable: whether several samples may be differentiated in one pass; False after `vmap`
            has failed on the model or the objective.
    """

    def __init__(self, model: FunctionalModel, objective: Objective) -> None:
        self.model, self.objective = model, objective
        self.is_batchable = True
        self._is_followed = self._is_looked_at = False

    def replica(self) -> ObjectiveOfParameters:
        """Return a copy for another thread.

        Raises:
            ModelError: as `FunctionalModel.replica`.
        """
        copy = ObjectiveOfParameters(self.model.replica(), self.objective)
        # Filters of warnings belong to the process: two threads would undo each other's.
        copy._is_looked_at = True  # filters of warnings are not a thread's own
        return copy

    def values(self, parameters: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, "b"]:
        """Evaluate the objective without recording a graph.

        Returns:
            `(B,)`.

        Raises:
            ObjectiveError: if the objective does not give one finite number per sample.
        """
        look = nullcontext() if self._is_looked_at else no_reentrant(self.model.model)
        self._is_looked_at = True
        with torch.no_grad(), look:
            values = self._evaluate(parameters, batch)
        check_finite_values([values], batch.first, batch.step)
        return values

    def check_followed(self, parameters: Mapping[str, Tensor], batch: Batch) -> None:
        """Reject an objective that autograd cannot trace back to any parameter.

        Raises:
            ObjectiveError: if it cannot.
        """
        # All parameters, also those that are not asked for: an objective may depend on others
        # alone.
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        if not self._evaluate(leaves, batch).requires_grad:
            raise ObjectiveError(
                "the objective does not depend on the parameters: expected a value that autograd "
                "can follow; remove detach(), .item() and no_grad() from model and objective"
            )

    def gradient(
        self,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        names: Iterable[str],
        take: Take | None = None,
    ) -> Gradients:
        """Differentiate the objective's sum over the batch.

        Args:
            parameters: values of all the model's parameters that take part.
            batch: samples.
            names: the parameters to differentiate with respect to.
            take: called with each parameter's name and gradient as soon as it is known, in the
                backward pass, so that not all of them are held at once. It must not change the
                gradient. On a CPU an embedding's is sparse, unless its weight has other uses.

        Returns:
            The objective's values and gradients; zeros if it does not depend on a parameter. With
            `take` no gradients, and `take` is not called for such a parameter.

        Raises:
            ObjectiveError: if the objective does not give one number per sample.
        """
        if not self._is_looked_at:
            self._is_looked_at = True
            with no_reentrant(self.model.model):
                return self.gradient(parameters, batch, names, take)
        # Cast before they become leaves: the gradients are equal, and the graph omits the cast.
        leaves = {
            name: self.model.cast(parameters[name].detach()).requires_grad_() for name in names
        }
        # On an accelerator a dense gradient costs less than gathering its rows.
        on_cpu = all(leaf.device.type == "cpu" for leaf in leaves.values())
        rows = Rows(leaves if on_cpu else {}) if take is not None else None
        # Only what is asked for needs a gradient, so that autograd skips the rest.
        point = {**parameters, **leaves}
        values = self._evaluate(point, batch, compiled=True, rows=rows)
        # Copy: replayed graphs overwrite the memory of their outputs.
        copies = values.detach().clone()
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if leaves and not values.requires_grad:  # it may depend on other parameters
            self.check_followed(parameters, batch)
        elif leaves and take is not None and rows is not None:
            for name, leaf in leaves.items():
                leaf.register_post_accumulate_grad_hook(partial(_hand_over, take, name, rows))
            # Activation checkpointing runs parts of the model again in the backward pass, on what
            # it holds then.
            with self.model.holding(point, rows):
                _run_backward(values.sum(), list(leaves.values()), accumulate=True)
            for name, rest in rows.rest():
                take(name, rest.to(wide(rest.dtype)))
        elif leaves:
            of = list(leaves.values())
            with self.model.holding(point):
                gradients = _run_backward(values.sum(), of, accumulate=False)
        by_name: dict[str, Tensor] = {}
        for name, gradient in zip(leaves if take is None else (), gradients, strict=take is None):
            if gradient is None:
                by_name[name] = torch.zeros_like(leaves[name])
            else:
                by_name[name] = gradient.to(wide(gradient.dtype))
        return Gradients(copies, by_name)

    def of_all_shards(self, slopes: dict[str, float]) -> dict[str, float]:
        """Add up what each process found of its shards; whole models have none."""
        return slopes

    def reduction(self, indexes: Mapping[str, UnitIndex], device: torch.device) -> Reduction:
        """Give the sums over units of gradients as they come here."""
        return Reduction(indexes, device)

    def agreeing(self) -> AbstractContextManager[None]:
        """Go on after a block where it went well on every process that holds a shard."""
        return nullcontext()

    def check_gradients(self, sums: Mapping[str, Tensor], batch: Batch) -> None:
        """Reject gradients that are not finite; as `check_finite_gradients`."""
        check_finite_gradients(sums, batch)

    def sample_gradients(
        self, parameters: Mapping[str, Tensor], batch: Batch, names: Iterable[str]
    ) -> Gradients:
        """Differentiate each sample's objective, all samples in one pass (`torch.func.vmap`).

        If `vmap` fails on the model or the objective, samples are processed one by one, and
        `is_batchable` becomes False.

        Args:
            parameters: as in `gradient`.
            batch: samples.
            names: as in `gradient`.

        Returns:
            The objective's values and gradients `(B, *shape)`.

        Raises:
            ObjectiveError: as `gradient`.
        """
        names = list(names)
        # One sample gains nothing, and pays for the batching of every operation.
        if self.is_batchable and len(batch) > 1:
            try:
                with warnings.catch_warnings():  # vmap warns about layers that it loops over
                    warnings.simplefilter("ignore")
                    return self._in_one_pass(parameters, batch, names)
            except ParamattrError:
                raise
            except Exception as error:  # vmap fails in many ways; other errors recur in the loop
                if is_out_of_memory(error):
                    raise
                self.is_batchable = False
                _log.info("samples are processed one by one, since vmap failed: %s", error)
        # Slower, and right for any model.
        each = [self.gradient(parameters, sample, names) for sample in batch.chunks(1)]
        return Gradients(
            torch.cat([gradients.values for gradients in each]),
            {name: torch.stack([gradients.by_name[name] for gradients in each]) for name in names},
        )

    def referenced(
        self, parameters: Callable[[], Mapping[str, Tensor]], batch: Batch, at_once: int
    ) -> Batch:
        """Replace a batch's targets by the target model's outputs, if the objective needs them.

        Args:
            parameters: returns the target's parameters.
            batch: samples.
            at_once: the most samples that run together.
        """
        if not isinstance(self.objective, SelfReference):
            return batch
        # A constant: differentiating the reference too would cancel the first-order change.
        with torch.no_grad():
            target = parameters()
            outputs = [prediction(self.model(target, part)) for part in batch.chunks(at_once)]
        return replace(batch, targets=joined(outputs))

    def _in_one_pass(
        self, parameters: Mapping[str, Tensor], batch: Batch, names: list[str]
    ) -> Gradients:
        parts = (batch.inputs, batch.targets, batch.extra, batch.keywords)
        tensors = list(tensors_in(parts))

        def value(leaves: Mapping[str, Tensor], *sample: Tensor) -> tuple[Tensor, Tensor]:
            rest = iter(sample)
            inputs, targets, extra, keywords = mapped(
                parts, lambda whole: next(rest)[None] if whole.ndim else next(rest)
            )
            sample_batch = Batch(inputs, targets, extra, keywords, batch.first, batch.step)
            values = self._evaluate({**parameters, **leaves}, sample_batch)
            return values[0], values[0]

        leaves = {name: parameters[name].detach() for name in names}
        each = vmap(
            grad(value, has_aux=True), in_dims=(None, *(0 if t.ndim else None for t in tensors))
        )
        by_name, values = each(leaves, *tensors)
        # Under `vmap` a detached objective gives zeros without a word.
        if not self._is_followed and not any(gradient.any() for gradient in by_name.values()):
            self.check_followed(parameters, batch.part(0, 1))
        self._is_followed = True
        return Gradients(values, by_name)

    def _evaluate(
        self,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        *,
        compiled: bool = False,
        rows: Rows | None = None,
    ) -> Tensor:
        output = self.model(parameters, batch, compiled=compiled, rows=rows)
        # Cloned, since the objective may modify them, as the model may modify its inputs.
        values = self.objective(output, mapped(batch.targets, torch.clone))
        check_shape(values, len(batch))
        return values


def _run_backward(
    value: Tensor, leaves: Sequence[Tensor], *, accumulate: bool
) -> Sequence[Tensor | None]:
    """Run autograd's engine itself.

    `Tensor.backward` and `torch.autograd.grad` leave the mode that rewrites operations while they
    run, and what activation checkpointing runs again in a backward pass would not be rewritten.
    """
    engine: Any = torch.autograd.Variable._execution_engine
    one = torch.ones_like(value)
    found: Sequence[Tensor | None] = engine.run_backward(
        (value,), (one,), False, False, tuple(leaves), allow_unreachable=True,
        accumulate_grad=accumulate,
    )  # fmt: skip
    return found


def _hand_over(take: Take, name: str, rows: Rows, leaf: Tensor) -> None:
    gradient, leaf.grad = leaf.grad, None
    if gradient is not None:
        with torch._C.DisableTorchFunction():  # the model's operations are rewritten, not these
            rows.complete(name, gradient)
            take(name, gradient.to(wide(gradient.dtype)))


def check_finite_values(values: Sequence[Float[Tensor, "b"]], first: int, step: int = 1) -> None:
    """Reject objectives that are not finite.

    Args:
        values: the objectives of the same samples at several points, checked together because each
            check on an accelerator waits for it.
        first: the number of the first sample.
        step: from the number of one sample to that of the next.

    Raises:
        ObjectiveError: naming the first sample whose objective is not finite.
    """
    if not values or torch.isfinite(torch.cat(list(values))).all():
        return
    # The slow way only now, to say which sample it is.
    for place in values:
        if not torch.isfinite(place).all():
            bad = int((~torch.isfinite(place)).nonzero()[0])
            raise ObjectiveError(
                f"the objective is {place[bad].item()} for sample {first + step * bad}: expected a "
                "finite number; check that sample's inputs and targets, and the model's range in "
                "this precision"
            )


def check_finite_gradients(sums: Mapping[str, Tensor], batch: Batch) -> None:
    """Reject gradients that are not finite.

    Raises:
        ObjectiveError: naming the parameter and the sample.
    """
    # One pass and one wait for the device; a second pass only if the sum overflows.
    totals = torch.stack([value.sum().double() for value in sums.values()])
    if torch.isfinite(totals).all():
        return
    for name, value in sums.items():
        if not torch.isfinite(value).all():
            where = f"sample {batch.first}" if len(batch) == 1 else f"samples from {batch.first} on"
            raise ObjectiveError(
                f"the gradient with respect to {name!r} is not finite for {where}, somewhere "
                "on the path: expected finite numbers; a square root or logarithm of zero has no "
                "finite gradient, so add a small constant inside it"
            )


def check_shape(values: object, samples: int) -> None:
    """Reject an objective that does not give one number per sample.

    Raises:
        ObjectiveError: saying what it gave.
    """
    if not isinstance(values, Tensor):
        raise ObjectiveError(
            f"the objective gave {an(type(values))}: expected a tensor of shape "
            f"({samples},), one number per sample"
        )
    if values.ndim == 0:
        raise ObjectiveError(
            f"the objective gave a scalar: expected one number per sample, shape ({samples},); sum "
            "over all but the batch (reduction='none', then .flatten(1).sum(1))"
        )
    if values.shape != (samples,):
        raise ObjectiveError(
            f"the objective gave shape {tuple(values.shape)}: expected ({samples},), one number "
            "per sample; sum over all but the batch"
        )
    if values.is_complex() or (values.is_floating_point() and values.itemsize == 1):
        raise ObjectiveError(
            f"the objective gave {values.dtype}: expected real numbers, in half precision at "
            "least; take the .abs() or the .real of a complex one, or .float() of the output"
        )


def came_in_parts(name: str) -> ModelError:
    """Return the error of a gradient that one backward pass gave in several parts."""
    return ModelError(
        f"the gradient of parameter {name!r} comes in parts, which FSDP does not add: expected one "
        "backward pass; give checkpoint(..., use_reentrant=False) in modules that are called "
        "several times"
    )

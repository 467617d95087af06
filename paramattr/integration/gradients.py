"""Gradients of the objective with respect to parameters that are not the model's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from paramattr.errors import ModelError, ObjectiveError
from paramattr.integration.batches import Batch, mapped, tensors_in
from paramattr.objectives import Objective, SelfReference
from paramattr.parameters import owners
from paramattr.runtime.isolation import check_evaluating

Call = Callable[[dict[str, Tensor], tuple[Any, ...]], Any]
"""A model's parameters and buffers, and what is given to it, to its output."""


class ObjectiveOfParameters:
    """The objective as a function of the parameters: the model itself is never written to.

    The model runs through `torch.func.functional_call` on the parameters it is given and on copies
    of its buffers, so any layer works that plain autograd can differentiate, tied ones included.

    Args:
        model: in evaluation mode.
        objective: `(output, targets)` to a tensor `(B,)`.
        dtype: precision that the model computes in; parameters, inputs and buffers are cast on
            their way in, outputs and gradients on their way out. The parameters' own by default.
            A half precision is mixed (`torch.autocast`): what is given is float32, and matrix
            products and convolutions alone compute in it.
        compile: whether `torch.compile` translates the model where it is differentiated; on a GPU
            into CUDA graphs, which spares the launch of each kernel.

    Raises:
        ModelError: if a layer that acts otherwise in training (batch norm, dropout) is in training
            mode.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        dtype: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        check_evaluating(model)
        self.model, self.objective, self.dtype = model, objective, dtype
        self._mixed = dtype is not None and dtype.itemsize < torch.float32.itemsize
        self._given_dtype = torch.float32 if self._mixed else dtype
        self._call = partial(functional_call, model, tie_weights=False)
        self._compiled: Call = self._call
        if compile:
            self._compiled = torch.compile(self._call, mode="reduce-overhead")
        self._unchecked: list[tuple[Tensor, int]] | None = None
        self._is_followed = False
        self._places = {
            name: [_joined(owner.path, owner.attribute) for owner in places]
            for name, places in owners(model).items()
        }

    def replica(self) -> ObjectiveOfParameters:
        """Make one for another thread: modules of its own, around the same tensors.

        `functional_call` puts its parameters into the model's modules while it runs, so two threads
        cannot share them.

        Raises:
            ModelError: if the model's modules cannot be copied.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        try:
            model = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        except Exception as error:  # whatever the modules hold
            raise ModelError(
                f"the model ({type(self.model).__name__}) cannot be copied for several workers "
                f"({error}): expected modules that copy.deepcopy can copy; take workers=1"
            ) from error
        return ObjectiveOfParameters(model, self.objective, dtype=self.dtype)

    @contextmanager
    def checked_together(self) -> Iterator[None]:
        """Look at the values but once, at the end: on an accelerator each look waits for them.

        Raises:
            ObjectiveError: at the end, as `gradient` does elsewhere, if one is not finite.
        """
        self._unchecked = []
        try:
            yield
            unchecked = self._unchecked
        finally:
            self._unchecked = None
        if unchecked and not torch.isfinite(torch.cat([v for v, _ in unchecked])).all():
            for values, first in unchecked:
                _check_finite_values(values, first)

    def values(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Evaluate the objective without a graph.

        Returns:
            `(B,)`.

        Raises:
            ObjectiveError: if the objective gives anything but one finite number a sample.
        """
        with torch.no_grad():
            return self._evaluate(parameters, batch)

    def gradient(
        self, parameters: Mapping[str, Tensor], batch: Batch, names: Iterable[str]
    ) -> dict[str, Tensor]:
        """Differentiate the objective's sum over the batch; with one sample, that sample's.

        Args:
            parameters: values of all the model's parameters that take part.
            batch: samples.
            names: the parameters to differentiate by.

        Returns:
            Names to gradients shaped like the parameters; zeros where the objective does not
            depend on one.

        Raises:
            ObjectiveError: if the objective gives anything but one finite number a sample, or
                does not depend on the parameters.
        """
        # Cast before they are leaves: the same gradients, and nothing of the cast in the graph.
        leaves = {name: self._cast(parameters[name].detach()).requires_grad_() for name in names}
        values = self._evaluate({**parameters, **leaves}, batch, self._compiled)
        if not leaves:
            return {}
        if not values.requires_grad and not self._is_differentiable(parameters, batch):
            raise ObjectiveError(
                "the objective does not depend on the parameters: expected a value that autograd "
                "can follow; leave detach(), .item() and no_grad() out of model and objective"
            )
        if not values.requires_grad:  # it depends on other parameters alone
            return {name: torch.zeros_like(parameters[name]) for name in leaves}
        found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
        wide = [(name, parameters[name]) for name in leaves]
        return {
            name: torch.zeros_like(own) if gradient is None else gradient.to(own.dtype)
            for (name, own), gradient in zip(wide, found, strict=True)
        }

    def sample_gradients(
        self, parameters: Mapping[str, Tensor], batch: Batch, names: Iterable[str]
    ) -> dict[str, Tensor]:
        """Differentiate each sample's objective, all samples in one pass (`torch.func.vmap`).

        Args:
            parameters: as in `gradient`.
            batch: samples.
            names: as in `gradient`.

        Returns:
            Names to gradients `(B, *shape)`.

        Raises:
            ObjectiveError: as `gradient`.
            RuntimeError: what `vmap` raises for a model or an objective that it cannot follow.
        """
        parts = (batch.inputs, batch.targets, batch.extra)
        tensors = list(tensors_in(parts))

        def value(leaves: Mapping[str, Tensor], *sample: Tensor) -> tuple[Tensor, Tensor]:
            own = iter(sample)
            inputs, targets, extra = mapped(parts, lambda _: next(own)[None])
            one = Batch(inputs, targets, extra, batch.first)
            output = self._output({**parameters, **leaves}, one)
            values = self.objective(output, one.targets)
            _check_shape(values, 1)
            return values[0], values[0]

        leaves = {name: parameters[name].detach() for name in names}
        each = vmap(grad(value, has_aux=True), in_dims=(None, *[0] * len(tensors)))
        found, values = each(leaves, *tensors)
        self._check_finite(values, batch.first)
        if not self._is_followed and not any(gradient.any() for gradient in found.values()):
            self.gradient(parameters, next(batch.chunks(1)), names)  # says if it cannot be followed
        self._is_followed = True
        gradients: dict[str, Tensor] = found
        return gradients

    def referenced(self, parameters: Callable[[], Mapping[str, Tensor]], batch: Batch) -> Batch:
        """Give a batch the model's own outputs as targets, if the objective asks for them.

        Args:
            parameters: gives those of the target.
            batch: samples.
        """
        if not isinstance(self.objective, SelfReference):
            return batch
        with torch.no_grad():
            return replace(batch, targets=self._output(parameters(), batch))

    def _is_differentiable(self, parameters: Mapping[str, Tensor], batch: Batch) -> bool:
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        return self._evaluate(leaves, batch).requires_grad

    def _evaluate(
        self, parameters: Mapping[str, Tensor], batch: Batch, call: Call | None = None
    ) -> Tensor:
        values = self.objective(self._output(parameters, batch, call), batch.targets)
        _check_shape(values, len(batch))
        self._check_finite(values, batch.first)
        return values

    def _check_finite(self, values: Tensor, first: int) -> None:
        if self._unchecked is None:
            _check_finite_values(values, first)
        else:
            # Its own memory: where graphs are replayed, the output's is written over.
            self._unchecked.append((values.detach().clone(), first))

    def _output(
        self, parameters: Mapping[str, Tensor], batch: Batch, call: Call | None = None
    ) -> Any:
        # Every place is named once and ties are written out here: where one module has two names,
        # functional_call's own tying swaps it twice and leaves the model with the second value.
        state = {
            place: value
            for name, value in parameters.items()
            for place in self._places.get(name, [name])
        }
        state = {**_copied_buffers(self.model, next(iter(state.values())).device), **state}
        given = tuple(  # a model may write into what it is given
            one.clone() if isinstance(one, Tensor) else one for one in (*batch.inputs, *batch.extra)
        )
        if self.dtype is not None:
            state, given = (mapped(part, self._cast) for part in (state, given))
        before = torch.get_rng_state() if self.model.training else None
        with self._autocast(next(iter(state.values())).device):
            output = (call or self._call)(state, given)
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            raise ModelError(
                f"the model ({type(self.model).__name__}) is in training mode and draws random "
                "numbers, as functional dropout does: call model.eval() first"
            )
        if self.dtype is None:
            return output
        return mapped(output, _widened)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        if not self._mixed:
            return nullcontext()
        # Its cache would outlive a point of the path, and does not know vmap's tensors.
        return torch.autocast(device.type, self.dtype, cache_enabled=False)

    def _cast(self, one: Tensor) -> Tensor:
        if self._given_dtype is None or not one.is_floating_point():
            return one
        return one.to(self._given_dtype)


def _widened(one: Tensor) -> Tensor:
    kind = torch.promote_types(one.dtype, torch.float32)
    return one.to(kind) if one.is_floating_point() else one


def _copied_buffers(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    copies: dict[int, Tensor] = {}
    state = {}
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if id(buffer) not in copies:
                copies[id(buffer)] = buffer.to(device, copy=True)
            state[_joined(path, name)] = copies[id(buffer)]
    return state


def _joined(path: str, attribute: str) -> str:
    return f"{path}.{attribute}" if path else attribute


def check_finite_gradients(sums: Mapping[str, Tensor], batch: Batch) -> None:
    """Refuse gradients that are not finite.

    Raises:
        ObjectiveError: naming the parameter and the sample.
    """
    # One pass over them and one wait for the device; a second look only if that overflows.
    totals = torch.stack([value.sum().double() for value in sums.values()])
    if torch.isfinite(totals).all():
        return
    for name, value in sums.items():
        if not torch.isfinite(value).all():
            where = f"sample {batch.first}" if len(batch) == 1 else f"samples from {batch.first} on"
            raise ObjectiveError(
                f"the gradient with respect to {name!r} is not finite for {where}, somewhere "
                "on the path: expected numbers; a square root or logarithm of zero has none, so "
                "add a small constant inside it"
            )


def _check_shape(values: object, samples: int) -> None:
    if not isinstance(values, Tensor):
        raise ObjectiveError(
            f"the objective gave a {type(values).__name__}: expected a tensor of shape "
            f"({samples},), one number a sample"
        )
    if values.ndim == 0:
        raise ObjectiveError(
            f"the objective gave a scalar: expected one number a sample, shape ({samples},); sum "
            "over all but the batch (reduction='none', then .flatten(1).sum(1))"
        )
    if values.shape != (samples,):
        raise ObjectiveError(
            f"the objective gave shape {tuple(values.shape)}: expected ({samples},), one number a "
            "sample; sum over all but the batch"
        )


def _check_finite_values(values: Tensor, first: int) -> None:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise ObjectiveError(
            f"the objective is {values[bad].item()} for sample {first + bad}: expected a finite "
            "number; check that sample's inputs and targets, and the model's range in this "
            "precision"
        )

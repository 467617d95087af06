"""A model as a function of its parameters; the model itself is never modified."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paramattr.errors import ModelError
from paramattr.integration.batches import Batch, mapped
from paramattr.integration.operations import Reaching, Rows, reaching
from paramattr.parameters import owners
from paramattr.runtime.compute import Compute, wide
from paramattr.runtime.isolation import check_evaluating
from paramattr.wrappers import all_hooked, as_assembled, copied

Call = Callable[[dict[str, Tensor], tuple[Any, ...], dict[str, Any]], Any]
"""Parameters and buffers, positional arguments and keyword arguments to the model's output."""


class FunctionalModel:
    """Run a model on other parameters and buffers than those it holds.

    It calls `torch.func.functional_call` with the values you pass and with copies of the remaining
    buffers. Any layer works that plain autograd can differentiate, tied layers included.

    Args:
        model: a model in evaluation mode.
        compute: precision and compiler.
        moving: names of the buffers that you pass too, and that are differentiated.

    Raises:
        ModelError: if a layer that behaves differently in training (batch norm, dropout) is in
            training mode.
    """

    def __init__(
        self, model: nn.Module, compute: Compute | None = None, moving: Iterable[str] = ()
    ) -> None:
        check_evaluating(model)
        # A layer in training mode draws at random, and its gradient is of another model.
        compute = Compute() if compute is None else compute
        self.model, self.compute, self.moving = model, compute, tuple(moving)
        self.given_dtype = compute.given_dtype(model)
        self._reaching = reaching(model, self.moving)
        # A mode stands before every operation: models without a table go without.
        self._has_tables = any(isinstance(module, nn.Embedding) for module in model.modules())
        self._compiled: Call = self._call
        if compute.compile:
            self._compiled = torch.compile(self._call, mode="reduce-overhead")
        self._places = {
            name: [_joined(owner.path, owner.attribute) for owner in places]
            for name, places in owners(model).items()
        } | _places_of_buffers(model, self.moving)
        self._slots = _slots(model, self.moving)
        self._hooked = all_hooked(model)

    def __call__(
        self,
        values: Mapping[str, Tensor],
        batch: Batch,
        *,
        compiled: bool = False,
        rows: Rows | None = None,
    ) -> Any:
        """Run the model.

        Args:
            values: names to parameters, and to buffers that move.
            batch: the model's arguments.
            compiled: whether to run the compiled model, if there is one.
            rows: what takes the gradients of embeddings, where the model is not compiled.

        Returns:
            The model's output. If a precision was requested, its tensors are in float32 at least.

        Raises:
            ModelError: if the model draws random numbers.
        """
        # Ties are resolved here, with each place named once: if one module has two names,
        # functional_call's tying swaps it twice and leaves the model with the second value.
        state = {
            place: value
            for name, value in values.items()
            for place in self._places.get(name, [name])
        }
        # Copied: a model may count calls or keep a cache in a buffer, and must find it as it was.
        device = next(iter(state.values())).device
        state = {**_copied_buffers(self.model, device), **state}
        # Cloned, since the model may modify them.
        arguments, keywords = mapped((batch.arguments, batch.keywords), torch.clone)
        if self.given_dtype is not None:
            state, arguments, keywords = (
                mapped(part, self.cast) for part in (state, arguments, keywords)
            )
        # Functional dropout asks the model's own mode, which no check of its layers sees.
        before = torch.get_rng_state() if self.model.training else None
        with self.compute.autocast(device), as_assembled(self._hooked):
            if compiled and self.compute.compile:
                output = self._compiled(state, arguments, keywords)
            else:
                output = self._call(state, arguments, keywords, self._mode(rows))
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            raise ModelError(
                f"the model ({type(self.model).__name__}) is in training mode and draws random "
                "numbers, as functional dropout does: call model.eval() first"
            )
        return output if self.given_dtype is None else mapped(output, _widened)

    @contextmanager
    def holding(self, values: Mapping[str, Tensor], rows: Rows | None = None) -> Iterator[None]:
        """Let the model hold other parameters, for a backward pass.

        Activation checkpointing runs parts of the model again in the backward pass, on what the
        model then holds. `functional_call` has given its own parameters back by then.

        Args:
            values: as in the call before.
            rows: as in the call before.
        """
        # Written into the dictionaries of the modules: assigning attributes would register tensors
        # anew.
        own = [(slot, attribute, slot[attribute]) for slot, attribute, _ in self._slots]
        try:
            for slot, attribute, name in self._slots:
                # A buffer that does not move may be written on when the block runs again.
                if name is None:
                    slot[attribute] = slot[attribute].clone()
                elif name in values:
                    slot[attribute] = self.cast(values[name])
            with self._mode(rows) or self._reaching, as_assembled(self._hooked):
                yield
        finally:
            for slot, attribute, tensor in own:
                slot[attribute] = tensor

    def cast(self, tensor: Tensor) -> Tensor:
        """Cast a floating-point tensor to the precision that the model takes."""
        if self.given_dtype is None or not tensor.is_floating_point():
            return tensor
        return tensor.to(self.given_dtype)

    def replica(self) -> FunctionalModel:
        """Return a copy for another thread: new modules around the same tensors.

        `functional_call` puts parameters into the model's modules while it runs, so two threads
        cannot share the modules.

        Raises:
            ModelError: if the model's modules cannot be copied.
        """
        # New modules around the same memory: a thread costs no copy of the weights.
        tensors = (*self.model.parameters(), *self.model.buffers())
        try:
            model = copied(self.model, {id(tensor): tensor for tensor in tensors})
        except ModelError as error:
            raise ModelError(f"{error}, or use workers=1") from error
        return FunctionalModel(model, self.compute, self.moving)

    def _mode(self, rows: Rows | None) -> Reaching | None:
        return Reaching(rows) if rows is not None and self._has_tables else None

    def _call(
        self,
        state: dict[str, Tensor],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        mode: AbstractContextManager[Any] | None = None,
    ) -> Any:
        with self._reaching if mode is None else mode:
            return functional_call(self.model, state, arguments, keywords, tie_weights=False)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(wide(tensor.dtype)) if tensor.is_floating_point() else tensor


def _copied_buffers(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    copies: dict[int, Tensor] = {}
    state = {}
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            # One buffer may have two places, and they must stay one.
            if id(buffer) not in copies:
                copies[id(buffer)] = buffer.to(device, copy=True)
            state[_joined(path, name)] = copies[id(buffer)]
    return state


def _places_of_buffers(model: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    moving = {id(model.get_buffer(name)): name for name in names}
    places: dict[str, list[str]] = {name: [] for name in moving.values()}
    for path, module in model.named_modules():
        for attribute, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if id(buffer) in moving:
                places[moving[id(buffer)]].append(_joined(path, attribute))
    return places


def _slots(model: nn.Module, moving: Iterable[str]) -> list[tuple[dict[str, Any], str, str | None]]:
    """List where a model holds its tensors: a dictionary, the key, and the name of what goes there.

    Buffers that do not move have no name.
    """
    found: list[tuple[dict[str, Any], str, str | None]] = [
        (owner.module._parameters, owner.attribute, name)
        for name, places in owners(model).items()
        for owner in places
    ]
    names = {id(model.get_buffer(name)): name for name in moving}
    for module in model.modules():
        for attribute, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            found.append((module._buffers, attribute, names.get(id(buffer))))
    return found


def _joined(path: str, attribute: str) -> str:
    return f"{path}.{attribute}" if path else attribute


_SAID = ("None of the inputs have requires_grad=True", "When use_reentrant=True, torch.utils")


@contextmanager
def no_reentrant(model: nn.Module) -> Iterator[None]:
    """Reject a model that runs blocks in `checkpoint(..., use_reentrant=True)`.

    Its backward pass refuses chosen `inputs`, and silently cuts all gradients of a block whose own
    inputs need none, as those of the first layer do. Such a block leaves no mark on the model, but
    torch warns where none of its inputs needs a gradient, and under `no_grad` none does. (A mode
    that sees each operation would see it too, and break models that are compiled in part.)

    Args:
        model: what runs inside, under `no_grad`, or forward and backward.

    Raises:
        ModelError: saying what to use instead.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=_SAID[0], category=UserWarning)
            yield
    except (UserWarning, RuntimeError) as error:
        if not str(error).startswith(_SAID):
            raise
        raise ModelError(
            f"the model ({type(model).__name__}) uses activation checkpointing with "
            "use_reentrant=True, which cuts gradients or refuses those of chosen parameters: "
            "expected checkpoint(..., use_reentrant=False), or none"
        ) from None

"""One batch of samples: what goes into the model, what the objective compares it with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Number
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramattr.checkpoints import content
from paramattr.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and further arguments of the model for some samples, all batch first.

    Attributes:
        inputs: one or more tensors `(B, ...)`, the model's first arguments.
        targets: a tensor `(B, ...)`, a tuple, list or dict of such, or None.
        extra: the model's further arguments; tensors are batch first, all else is passed on as it
            is to every sample.
        first: the number of the first sample in the batch that this one was cut from.
    """

    inputs: tuple[Tensor, ...]
    targets: Any
    extra: tuple[Any, ...]
    first: int = 0

    @classmethod
    def of(
        cls,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any = None,
        additional_forward_args: Any = None,
        *,
        device: torch.device | None = None,
    ) -> Batch:
        """Check that all tensors hold the same number of samples, and move them to `device`.

        Raises:
            DataError: if an input is no tensor, there is no sample, or the numbers differ.
        """
        several = inputs if isinstance(inputs, tuple | list) else (inputs,)
        _check_tensors(targets)
        for number, one in enumerate(several):
            if not isinstance(one, Tensor) or one.ndim == 0:
                raise DataError(
                    f"input {number} is {_described(one)}: expected a tensor with the batch first"
                )
        if not several:
            raise DataError("there is no input: expected a tensor or a tuple of tensors")
        extra = additional_forward_args
        if not isinstance(extra, tuple):
            extra = () if extra is None else (extra,)
        size = several[0].shape[0]
        if size == 0:
            raise DataError("the inputs hold no sample: expected at least one")
        for place, tensors in (("inputs", several), ("targets", targets), ("extra", extra)):
            for tensor in tensors_in(tensors):
                if tensor.ndim == 0 or tensor.shape[0] != size:
                    label = "additional_forward_args" if place == "extra" else place
                    raise DataError(
                        f"the inputs hold {size} samples and the {label} "
                        f"{tensor.shape[0] if tensor.ndim else 'a single number'}: expected as "
                        "many of each, the batch first"
                    )
        moved = [mapped(part, lambda t: _usable(t, device)) for part in (several, targets, extra)]
        return cls(tuple(moved[0]), moved[1], tuple(moved[2]))

    @classmethod
    def from_loader(cls, item: Any, *, device: torch.device | None = None) -> Batch:
        """Read what a data loader gives: `(inputs, targets)`, or a tensor alone.

        Raises:
            DataError: for anything else.
        """
        if isinstance(item, Tensor):
            return cls.of(item, device=device)
        if isinstance(item, tuple | list) and len(item) in (1, 2):
            return cls.of(*item, device=device)
        raise DataError(
            f"the loader gave {_described(item)}: expected (inputs, targets) or a tensor alone; "
            "wrap the loader in a generator that gives that"
        )

    def __len__(self) -> int:
        """Count the samples."""
        return self.inputs[0].shape[0]

    def feed(self, update: Callable[[bytes], object]) -> None:
        """Give the batch's content to a digest's `update`, so that batches can be told apart."""
        for tensor in tensors_in(self._parts()):
            update(content(tensor))

    def chunks(self, size: int) -> Iterator[Batch]:
        """Cut the batch into batches of at most `size` samples, in order."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            inputs, targets, extra = (mapped(p, itemgetter(part)) for p in self._parts())
            yield Batch(inputs, targets, extra, self.first + start)

    def _parts(self) -> tuple[Any, Any, Any]:
        return self.inputs, self.targets, self.extra


def mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to all tensors in tuples, lists and dicts; all else stays as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        branches = [mapped(branch, function) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    if isinstance(tree, dict):
        same = copy.copy(tree)  # of its own kind, such as an output that has attributes too
        for key, branch in tree.items():
            same[key] = mapped(branch, function)
        return same
    return tree


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """List all tensors in tuples, lists and dicts, in the order in which `mapped` meets them."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from tensors_in(branch)
    elif isinstance(tree, dict):
        yield from tensors_in(tuple(tree.values()))


def _check_tensors(targets: Any) -> None:
    branches = targets.values() if isinstance(targets, dict) else targets
    if isinstance(targets, tuple | list | dict):
        for branch in branches:
            _check_tensors(branch)
    elif isinstance(targets, Number | np.ndarray):
        raise DataError(
            f"the targets hold {_described(targets)}: expected a tensor with the batch first, or a "
            "tuple, list or dict of such; torch.as_tensor makes one"
        )


def _usable(tensor: Tensor, device: torch.device | None) -> Tensor:
    moved = tensor.detach() if device is None else tensor.detach().to(device)
    return moved.clone() if moved.is_inference() else moved  # autograd refuses inference tensors


def _described(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    return f"a {type(found).__name__}"

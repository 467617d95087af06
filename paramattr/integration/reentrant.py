"""A look for activation checkpointing whose gradients cannot be taken: the reentrant kind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from paramattr.errors import ModelError

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

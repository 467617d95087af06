"""A look for activation checkpointing whose gradients cannot be taken: the reentrant kind."""

from __future__ import annotations

import sys
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from paramattr.errors import ModelError

_FORWARD = CheckpointFunction.forward.__code__


class NoReentrant(TorchFunctionMode):
    """Reject a model that runs operations inside `checkpoint(..., use_reentrant=True)`.

    Its backward pass works only without chosen `inputs`, and silently cuts all gradients of a block
    whose own inputs need none, as those of the first layer do. Each operation looks who called it,
    since the block runs as plain Python under `no_grad`: no graph and no hook shows it.

    Args:
        name: of the model's class.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, if no reentrant block called it."""
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code is _FORWARD:
                raise ModelError(
                    f"the model ({self._name}) uses activation checkpointing with "
                    "use_reentrant=True, which cuts gradients or refuses those of chosen "
                    "parameters: expected checkpoint(..., use_reentrant=False), or none"
                )
            frame = frame.f_back  # type: ignore[assignment]
        return func(*args, **(kwargs or {}))

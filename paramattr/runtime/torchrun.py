"""Commands that `torchrun` started several times: they share the work, and the first one speaks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from paramattr.errors import ParamattrError, RankError

Command = TypeVar("Command", bound=Callable[..., Any])
PATIENCE = 5.0
"""Seconds that a rank waits for the first one to tell of an error, before it does so itself."""
_TOLD = "paramattr/told"


def is_launched() -> bool:
    """Say whether this process is one of several that torchrun started."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def is_joined() -> bool:
    """Say whether this command shares its work with other ranks."""
    if not is_launched() or "torch.distributed" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Say whether this process is the one that prints, draws and writes."""
    return not is_launched() or os.environ["RANK"] == "0"


def shared(command: Command) -> Command:
    """Let the ranks that torchrun started share a command's work; one process is as it was.

    Raises:
        ParamattrError: where several ranks start and PyTorch is built without `torch.distributed`.
    """

    @wraps(command)
    def joined(*args: Any, **options: Any) -> Any:
        if not is_launched():
            return command(*args, **options)
        with _ranks():
            return command(*args, **options)

    return joined  # type: ignore[return-value]


def alone(command: Command) -> Command:
    """Refuse a command that torchrun starts several times.

    Raises:
        ParamattrError: naming the way out.
    """

    @wraps(command)
    def checked(*args: Any, **options: Any) -> Any:
        if is_launched():
            raise ParamattrError(
                f"the command {command.__name__} runs in one process, and torchrun started "
                f"{os.environ['WORLD_SIZE']}: start it without torchrun"
            )
        return command(*args, **options)

    return checked  # type: ignore[return-value]


@contextmanager
def _ranks() -> Iterator[None]:
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise ParamattrError("this PyTorch has no torch.distributed: start without torchrun")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # what is exchanged is small, and on the CPU
    store = dist.distributed_c10d._get_default_store()
    try:
        if is_first():
            yield
        else:
            with (
                Path(os.devnull).open("w") as nowhere,
                redirect_stdout(nowhere),
                redirect_stderr(nowhere),
            ):
                yield
    except (ParamattrError, OSError) as error:
        if is_first():
            store.set(_TOLD, "")
            raise
        if isinstance(error, RankError) or _is_told(store):
            raise SystemExit(2) from None
        raise ParamattrError(f"rank {os.environ['RANK']}: {error}") from None
    dist.destroy_process_group()


def _is_told(store: Any) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            if store.check([_TOLD]):
                return True
        except RuntimeError:  # the store is gone, with the rank that kept it
            return True
        time.sleep(0.05)
    return False

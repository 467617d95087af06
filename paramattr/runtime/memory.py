"""Memory: what this process holds, what there is, and the peak of what tensors take."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakOfTensors(TorchDispatchMode):
    """Follow the storages that operations allocate, on any device, from forward to backward.

    What an operation takes for itself and gives back before it returns is not seen.

    Attributes:
        live: bytes of the storages that are alive.
        peak: the most that it has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Do not count storages that were there before."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return found

    def _see(self, tensor: Tensor) -> None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # a tensor without one
            return
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        weakref.finalize(storage, self._release, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _release(self, size: int) -> None:
        self.live -= size


@contextmanager
def peak_of_tensors(before: Iterable[Tensor]) -> Iterator[PeakOfTensors]:
    """Follow what is allocated inside the block.

    Args:
        before: tensors that are not counted.
    """
    follower = PeakOfTensors()
    follower.leave_out(before)
    with follower:
        yield follower


def held(device: torch.device) -> int:
    """Give the bytes that this process holds: of a GPU's memory, or resident in the machine's."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    gc.collect()
    give_back_free()  # what is free already is not held
    return _field("/proc/self/status", "VmRSS")


def give_back_free() -> None:
    """Give what is free already in this process's heap back to the system, where it knows how."""
    with suppress(OSError, AttributeError):  # another system's library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def giving_back_after(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give free memory back after each call of some modules.

    FSDP takes and frees the whole parameters of each module in turn. What a module keeps for the
    backward pass is small and comes to lie in the gaps, so that the next module's do not fit there.
    """
    handles = [module.register_forward_hook(lambda *_: give_back_free()) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def available(device: torch.device) -> int | None:
    """Give the bytes that this process may still take; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    free = _field("/proc/meminfo", "MemAvailable")
    limits = [left for left in (_left_in_group(), free) if left]
    return min(limits) if limits else None


def distinct_bytes(tensors: Iterable[Tensor], besides: Iterable[Tensor] = ()) -> int:
    """Sum the storages of tensors, each once, without those of others.

    >>> weight = torch.zeros(4)
    >>> distinct_bytes([weight, weight[:2]]), distinct_bytes([weight], besides=[weight])
    (16, 0)
    """
    seen = {tensor.untyped_storage().data_ptr() for tensor in besides}
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def shown(size: int) -> str:
    """Write a number of bytes for a person.

    >>> shown(3_500_000), shown(12 * 2**30)
    ('3.3 MiB', '12.0 GiB')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.1f} KiB"


def _field(file: str, name: str) -> int:
    try:
        lines = Path(file).read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):  # another system than Linux
        return 0


def _left_in_group() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / f"memory.{n}").read_text()) for n in ("max", "current"))
    except (OSError, ValueError):  # no limit is written as "max"
        return None
    return max(1, limit - used)

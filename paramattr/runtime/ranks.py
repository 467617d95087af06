"""Ranks: the processes that share the samples of one call, and what they tell each other."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from paramattr.errors import ParamattrError, RankError, one_line

Distributed = Any
"""False for this process alone, True for all ranks of `torch.distributed`, or a process group."""
Any_ = TypeVar("Any_")

BEAT = 2.0
"""Seconds between two signs of life."""
SILENCE = 40.0
"""Seconds without a sign of life after which a rank is taken for gone."""
_SEVERAL = ("the models", "the units", "the settings")
_STATES = ("the objective", "the function", "the settings", "the path")
_calls: dict[str, int] = {}


class Ranks:
    """The processes that take part in one call; by default this one alone.

    Each takes every `size`-th sample. Messages go through the store that `torch.distributed` keeps,
    so that a rank that fails, dies or was given other data stops the others; sums go through the
    backend (gloo or nccl).

    Args:
        distributed: as `Distributed`.
        shards: numbers in the world of the processes that hold one model's shards: they take the
            same samples.

    Attributes:
        group: the processes that share the samples; None for one.
        rank: the number of this process's share.
        size: how many shares there are.
        process: the number of this process among all that take part.
        processes: how many take part.

    Raises:
        RankError: if `torch.distributed` is not initialised, or this process is not in the group.

    >>> Ranks().size, Ranks().share(5, first=0)
    (1, slice(0, None, 1))
    """

    def __init__(self, distributed: Distributed = False, shards: Sequence[int] = ()) -> None:
        self.group: Any = None
        self.rank, self.size = 0, 1
        self.process, self.processes = 0, 1
        self._name, self._points, self._compared = "", count(), set[str]()
        self._is_together = False
        members = list(shards)
        # A sharded model that is all ranks' has no replica: there is one share.
        if distributed is not False and not (distributed is True and shards):
            self._join(distributed)
            members = dist.get_process_group_ranks(self.group)
            if shards:
                every = self.gathered(list(shards))
                members = sorted({rank for part in every for rank in part})
                if len(members) != self.size * len(shards):
                    raise RankError(
                        "the group of `distributed` holds several shards of one model, which take "
                        "the same samples: expected a group of its replicas, such as "
                        "mesh['replicate'].get_group()"
                    )
        if members:
            self.process, self.processes = members.index(dist.get_rank()), len(members)
            name = hashlib.sha256(str(members).encode()).hexdigest()[:16]
            self._name = self._begin(f"paramattr/{name}")

    def _join(self, distributed: Distributed) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RankError(
                "distributed is set and torch.distributed is not initialised: call "
                "torch.distributed.init_process_group() first, in a program that torchrun starts; "
                "or leave out distributed"
            )
        if distributed is not True and not isinstance(distributed, dist.ProcessGroup):
            raise ParamattrError(
                f"distributed is {distributed!r}: expected True, False, or a process group of "
                "torch.distributed"
            )
        self.group = dist.group.WORLD if distributed is True else distributed
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        if self.rank < 0:
            raise RankError(
                "this process is not in the group: call the method on the group's ranks alone"
            )

    def _begin(self, members: str) -> str:
        """Number this call: all members make the same calls, but those that went on without one."""
        with _lost_errors():
            while True:
                _calls[members] = _calls.get(members, 0) + 1
                name = f"{members}/{_calls[members]}"
                if not self._store.check([f"{name}/without/{self.process}"]):
                    return name

    @property
    def is_first(self) -> bool:
        """Say whether this process is the one that warns, draws and prints."""
        return self.process == 0

    @property
    def are_in_step(self) -> bool:
        """Say whether several processes take the same samples, as those of one model's shards."""
        return self.processes > self.size

    def share(self, length: int, *, first: int) -> slice | None:
        """Give the places of this rank's samples in a batch; None where it has none.

        Args:
            length: samples in the batch.
            first: the number of its first sample in the whole loader.
        """
        start = (self.rank - first) % self.size
        return slice(start, None, self.size) if start < length else None

    def file(self, path: str | Path | None) -> Path | None:
        """Name this rank's own file beside a path.

        >>> Ranks().file("sums.safetensors").name
        'sums.safetensors'
        """
        if path is None or self.processes == 1:
            return None if path is None else Path(path)
        path = Path(path)
        return path.with_name(f"{path.stem}.rank{self.process}of{self.processes}{path.suffix}")

    def stamp(self) -> dict[str, Any]:
        """Say whose share a file holds; nothing for one process."""
        return {} if self.processes == 1 else {"rank": [self.process, self.processes]}

    def compare(self, what: str, digest: str) -> None:
        """Post a digest, and compare it with what the other ranks posted so far.

        It never waits: of two ranks that differ, the later one finds out.

        Args:
            what: names what is compared, such as "the data up to batch 4".
            digest: of it.

        Raises:
            RankError: naming what differs, and on which rank.
        """
        if self.processes == 1:
            return
        with _lost_errors():
            self._store.set(self._key("same", what, self.process), digest)
            self._compared.add(what)
            for other in range(self.processes):
                key = self._key("same", what, other)
                if other != self.process and self._store.check([key]):
                    found = self._store.get(key).decode()
                    if found != digest:
                        error = _differing(what, self.process, other)
                        self._tell(error)
                        raise error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the other ranks of an error inside the block, and show them signs of life.

        An error of a connection that another rank's failure has cut is told as that failure. Blocks
        inside blocks are one.

        Raises:
            RankError: if another rank failed; see `meet`.
        """
        if self.processes == 1 or self._is_together:
            yield
            return
        self._is_together, done = True, threading.Event()
        beating = threading.Thread(target=self._beat, args=(done,), name="paramattr", daemon=True)
        beating.start()
        try:
            yield
        except BaseException as error:
            cause = self._cause(error)
            self._tell(cause)
            if cause is error:
                raise
            raise cause from None
        finally:
            self._is_together = False
            done.set()
            beating.join()

    @contextmanager
    def agreeing(self, all_of: Callable[[bool], bool]) -> Iterator[None]:
        """Let no process go on from a block that raised on another, which it would wait for.

        Args:
            all_of: says whether it is so on every process that takes the same samples.

        Raises:
            RankError: with the message of the process whose block raised.
        """
        try:
            yield
        except BaseException as error:
            self._tell(error)
            all_of(False)
            raise
        if not all_of(True):
            self.check()
            raise RankError("another rank failed: look at its own output")

    def check(self) -> None:
        """Stop where another rank has failed.

        Raises:
            RankError: with its message.
        """
        if self.processes == 1:
            return
        with _lost_errors():
            key = self._key("failed")
            if self._store.check([key]):
                rank, _, message = self._store.get(key).decode().partition(" ")
                if int(rank) != self.process:
                    raise RankError(f"rank {rank} failed: {message}")

    def meet(self, what: str = "") -> None:
        """Wait until every rank has come to this point.

        Args:
            what: the ranks do here. Ranks that meet before different things have different data.

        Raises:
            RankError: if another rank failed, does something else, or gives no sign of life.
        """
        if self.processes == 1:
            return
        point, beats, pause = next(self._points), _Beats(), 0.001
        with _lost_errors():
            self._store.set(self._key("at", point, self.process), what)
            missing = [rank for rank in range(self.processes) if rank != self.process]
            while missing:
                self.check()
                missing = [r for r in missing if not self._store.check([self._key("at", point, r)])]
                for rank in missing:
                    key = self._key("beat", rank)
                    beat = self._store.get(key) if self._store.check([key]) else b""
                    try:
                        beats.see(rank, beat)
                    except RankError:
                        self._store.set(self._key("without", rank), "")
                        raise
                time.sleep(pause)
                pause = min(0.1, 1.5 * pause)
            for compared in sorted(self._compared):
                own = self._store.get(self._key("same", compared, self.process)).decode()
                self.compare(compared, own)
            self._compared.clear()
            for other in range(self.processes):
                if self._store.get(self._key("at", point, other)).decode() != what:
                    error = _differing("the data", self.process, other)
                    self._tell(error)
                    raise error

    def added(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum tensors over the ranks; every rank gives the same names and shapes."""
        if self.size == 1:
            return dict(tensors)
        found = {}
        for name, tensor in tensors.items():
            own = tensor.detach().to(self._device, copy=True)
            with _lost_errors():
                dist.all_reduce(own, group=self.group)
            found[name] = own.to(tensor.device)
        return found

    def gathered(self, own: Any_) -> list[Any_]:
        """Collect an object of every rank, in their order."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        with _lost_errors():
            dist.all_gather_object(found, own, group=self.group)
        return found

    @property
    def _device(self) -> torch.device:
        backend = dist.get_backend(self.group)
        if "nccl" in backend and "gloo" not in backend:
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    @property
    def _store(self) -> Any:
        return dist.distributed_c10d._get_default_store()

    def _key(self, *parts: object) -> str:
        return "/".join([self._name, *map(str, parts)])

    def _tell(self, error: BaseException) -> None:
        message = " ".join(str(error).split()) or type(error).__name__
        try:
            if not self._store.check([self._key("failed")]):
                self._store.set(self._key("failed"), f"{self.process} {message}")
        except Exception:  # the store went with the rank that kept it
            return

    def _cause(self, error: BaseException) -> BaseException:
        """Give the failure that has cut a connection; any other error as it is."""
        if not _is_lost(error):
            return error
        try:
            self.check()
        except RankError as cause:
            return RankError(
                f"{cause} (in the middle of a pass, so that the ranks have lost each other: start "
                "them all again)"
            )
        return _lost(error)

    def _beat(self, done: threading.Event) -> None:
        for number in count():
            try:
                self._store.set(self._key("beat", self.process), str(number))
            except Exception:  # whoever waits for the store says so
                return
            if done.wait(BEAT):
                return


def _differing(what: str, rank: int, other: int) -> RankError:
    verb = "differ" if what.startswith(_SEVERAL) else "differs"
    message = f"{what} {verb} between rank {rank} and rank {other}: expected "
    if what.startswith(_STATES):
        return RankError(
            f"{message}the same call on every rank, with the same settings, and an objective and a "
            "function of the same code and state; what they hold of a rank alone, such as its "
            "number, counts"
        )
    return RankError(
        f"{message}the same models and the same loader on every rank, each of which takes its own "
        "share of it; give shuffles the same seed, and leave out DistributedSampler"
    )


class _Beats:
    """The last sign of life of each rank."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[bytes, float]] = {}

    def see(self, rank: int, beat: bytes) -> None:
        """Take in a sign of life.

        Raises:
            RankError: if it has been the same for too long.
        """
        now = time.monotonic()
        last, since = self.seen.get(rank, (None, now))
        if last != beat:
            self.seen[rank] = (beat, now)
        elif now - since > SILENCE:
            raise RankError(
                f"rank {rank} has given no sign of life for {SILENCE:.0f} seconds: expected every "
                "rank to take part; look at its own output, then start all ranks again"
            )


def sketch(*states: Mapping[str, Tensor]) -> str:
    """Digest some entries of each tensor, to tell models apart without reading all of them."""
    digest = hashlib.sha256()
    for state in states:
        for name, tensor in state.items():
            few = tensor.detach().flatten()[:: max(1, tensor.numel() // 64)]
            values = few.to("cpu", torch.float64).numpy().tobytes()
            digest.update(f"{name} {tuple(tensor.shape)} ".encode() + values)
    return digest.hexdigest()


@contextmanager
def _lost_errors() -> Iterator[None]:
    try:
        yield
    except ParamattrError:
        raise
    except RuntimeError as error:  # torch's, of a connection that is closed
        raise _lost(error) from None


def _lost(error: BaseException) -> RankError:
    return RankError(
        f"the ranks have lost each other ({one_line(error, 120)}): one of them is gone; look at "
        "its own output, then start all ranks again"
    )


def _is_lost(error: BaseException) -> bool:
    """Say whether an error is torch's, of a connection that is closed or that nobody answers."""
    words = ("gloo", "NCCL", "Connection closed", "pair closure")
    is_torchs = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
    return is_torchs and any(word in str(error) for word in words)


ALONE = Ranks()
"""This process alone."""

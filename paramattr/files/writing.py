"""Files written whole or not at all, also where a signal ends the run.

Only Python's own modules are imported here: the command line sets its signals up before torch,
which takes seconds to import, and a stop in these seconds ends in one line too.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from paramattr.errors import CheckpointError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = "run the same command again to resume"


class Stopped(SystemExit):
    """Raised where the command is when a signal arrives; its code is 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class _Kept:
    """What this process has kept so far: the file of its progress, and files that are whole."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.place: str | None = None
        self.how = AGAIN
        self.written: dict[str, None] = {}


_kept = _Kept()


def progress_is_in(path: str | Path, how: str = AGAIN) -> None:
    """Remember where a run keeps its progress, and how it is resumed."""
    _kept.place, _kept.how = str(path), how


def is_written(path: str | Path) -> None:
    """Remember a file that was written whole."""
    _kept.written[str(path)] = None


def line(number: int) -> str:
    """Say what stopped the command, what was kept, and how to go on."""
    if _kept.place is not None and Path(_kept.place).is_file():
        kept = f"the progress is kept in {_kept.place}: {_kept.how}"
    elif _kept.written:
        last = next(reversed(_kept.written))
        kept = (
            f"of the results {len(_kept.written)} are written, up to {last}, and no progress is "
            "kept: run the same command again from the start"
        )
    else:
        kept = "nothing was kept: run the same command again"
    return f"paramattr: stopped by {signal.Signals(number).name}; {' '.join(kept.split())}"


@contextmanager
def signals() -> Iterator[None]:
    """End the process in one line when a signal arrives inside the block.

    The first signal unwinds the stack, so that bars are cleared and models restored. A second one
    ends the process at once. Files are written whole or not at all, so neither can break one.
    """
    if threading.current_thread() is not threading.main_thread() or _is_installed():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hook, handler = sys.unraisablehook, _Handler()
    for number in SIGNALS:
        signal.signal(number, handler)
    sys.unraisablehook = lambda about: handler.end() if _is_stop(about) else hook(about)
    _kept.forget()
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        number = getattr(stopped, "number", signal.SIGINT)
        print(line(number), file=sys.stderr, flush=True)
        raise SystemExit(128 + number) from None
    finally:
        # Once stopped, further signals end it at once, also while the interpreter is left.
        if not handler.first:
            for number, earlier in before.items():
                signal.signal(number, earlier)
        sys.unraisablehook = hook


class _Handler:
    """Raises `Stopped` for the first signal, and ends the process for the second."""

    def __init__(self) -> None:
        self.process, self.first = os.getpid(), 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.first or os.getpid() != self.process:  # a forked worker is silent
            os._exit(128 + number)
        self.first = number
        if _is_importing(frame):  # what imports may swallow the exception, and fail later
            self.end()
        raise Stopped(number)

    def end(self) -> None:
        """End the process where no exception can pass, such as in a destructor."""
        os.write(2, f"{line(self.first)}\n".encode(errors="replace"))
        os._exit(128 + self.first)


def _is_installed() -> bool:
    return isinstance(signal.getsignal(signal.SIGTERM), _Handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_stop(about: Any) -> bool:
    return isinstance(about.exc_value, Stopped)


try:
    import fcntl
except ImportError:  # pragma: no cover (a system without locks keeps what a killed write left)
    fcntl = None  # type: ignore[assignment]

_ENDING = ".partial"
_RANDOM = 16
"""Letters of the name that nobody can foresee."""
_LONGEST = 255
"""Bytes of a name on most disks."""


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a file in full or not at all: a killed process leaves the old file, or none.

    Args:
        path: the file; a missing folder is created.
        data: the content; text is written as UTF-8.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path, _new_file) as (partial, number):
            with open(number, "wb", closefd=False) as file:
                file.write(data.encode() if isinstance(data, str) else data)
            os.fsync(number)  # else a power cut may leave the name without the content
            partial.replace(path)  # with the user's own file permissions
            _settle(path.parent)
        is_written(path)
    except OSError as error:
        raise CheckpointError(
            f"file {path} cannot be written ({error}): choose a folder that you can write to, "
            "with room"
        ) from None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`, which takes that name where the block ends well.

    Args:
        path: the folder, which is not there yet, or empty; a missing parent is created.

    Raises:
        CheckpointError: if it cannot be written, in the block or at its end.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path, _new_folder) as (partial, _):
            yield partial
            for place, _, names in os.walk(partial):
                for name in names:
                    _settle(Path(place, name))
                _settle(Path(place))
            partial.replace(path)
            _settle(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"folder {path} cannot be written ({error}): choose a place that you can write to, "
            "with room"
        ) from None


@contextmanager
def _beside(path: Path, make: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """Make something new in the same folder, locked while it is written; it goes with the block."""
    # A lock, not a process's number, tells the living from the dead: it ends with its process.
    start = f".{path.name}".encode()[: _LONGEST - 1 - _RANDOM - len(_ENDING)].decode(
        errors="ignore"
    )
    _remove_leftovers(path.parent, f"{start}.")
    while True:
        partial = path.with_name(f"{start}.{secrets.token_hex(_RANDOM // 2)}{_ENDING}")
        number = make(partial)
        try:
            _lock(number)
            if os.fstat(number).st_nlink:  # else another took it for a leftover before the lock
                yield partial, number
                return
        finally:
            _remove(partial)
            os.close(number)


def _new_file(partial: Path) -> int:
    # O_EXCL: a link that somebody put there is an error, and not followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    return os.open(partial, flags | getattr(os, "O_BINARY", 0), 0o666)


def _new_folder(partial: Path) -> int:
    partial.mkdir()
    return os.open(partial, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))


def _remove_leftovers(folder: Path, start: str) -> None:
    if fcntl is None:  # pragma: no cover
        return
    size = len(start) + _RANDOM + len(_ENDING)
    for left in folder.iterdir():
        name = left.name
        if not (len(name) == size and name.startswith(start) and name.endswith(_ENDING)):
            continue
        with suppress(OSError):  # it is being written, gone, or nothing that we wrote
            # A network disk locks a file for a writer alone, and a folder never: that one stays.
            how = os.O_RDONLY if left.is_dir() else os.O_RDWR
            found = os.open(left, how | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(found)


def _lock(number: int) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a disk without locks: nothing on it is taken for a leftover
            fcntl.flock(number, fcntl.LOCK_EX)


def _remove(partial: Path) -> None:
    with suppress(OSError):
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Put a file's content, or a folder's names, onto the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        with (
            suppress(OSError) if path.is_dir() else nullcontext()
        ):  # not every disk can for folders
            os.fsync(number)
    finally:
        os.close(number)

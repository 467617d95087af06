"""Files and folders that are written in full or not at all, whatever ends the process."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from paramattr.errors import CheckpointError
from paramattr.stopping import is_written

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

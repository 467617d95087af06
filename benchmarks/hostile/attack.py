"""An attack: a good file, and what is done to it before a call reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Attack:
    """What is done to one good file.

    Attributes:
        call: name of the call that reads it, of `calls.CALLS`.
        file: what is attacked, in the folder of good files.
        name: what is done.
        change: does it, to the file's path.
        twin: makes a good file that is as demanding, which memory is compared with; the good file
            itself by default.
        outcome: `"refused"`, or `"read"` where the file is valid, or cannot be told from
            a valid one.
        says: what the message must hold; the name of the attacked file by default.
    """

    call: str
    file: str
    name: str
    change: Change
    twin: Change | None = None
    outcome: str = "refused"
    says: str | None = None

    @property
    def words(self) -> str:
        """Name it."""
        return f"{self.call}: {self.file}: {self.name}"

    @property
    def must_say(self) -> str:
        """What the message must hold."""
        return Path(self.file).name if self.says is None else self.says

    def prepare(self, good: Path, folder: Path, change: Change | None) -> Path:
        """Copy the good files into a new folder and change the one."""
        shutil.copytree(good, folder, symlinks=True)
        if change is not None:
            change(folder / self.file)
        return folder


def empty(path: Path) -> None:
    """Leave zero bytes."""
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """Leave two thirds."""
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * len(whole) // 3])


def other_magic(path: Path) -> None:
    """Overwrite the first eight bytes."""
    path.write_bytes(b"\x89GARBAGE" + path.read_bytes()[8:])


def flipped(place: float) -> Change:
    """Flip one bit at a share of the file's length."""

    def change(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[min(int(place * len(whole)), len(whole) - 1)] ^= 0x10
        path.write_bytes(whole)

    return change


def looped(path: Path) -> None:
    """Put a link to itself in its place."""
    _removed(path)
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    """Put a folder in its place."""
    _removed(path)
    path.mkdir()


def removed(path: Path) -> None:
    """Take it away."""
    _removed(path)


def holding(content: bytes | str) -> Change:
    """Write something else into it."""

    def change(path: Path) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def _removed(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

"""One call in a process of its own: how it ends, what it says, and what memory it takes."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.process import field, forget_peak
from paramattr.errors import ParamattrError

PATIENCE = 120
"""Seconds before a call is stopped."""
MOST = 6 * 2**30
"""Bytes that a call may take beyond what the process holds, lest an attack takes the machine's."""


@dataclass(frozen=True)
class Trial:
    """How a call ended.

    Attributes:
        outcome: `"read"`; `"refused"` with one clear error; else what else happened.
        message: what it said.
        mib: the most memory that it took, beyond what the process held before.
        seconds: how long it took.
        left: files that it made or changed.
        written: their bytes.
        steers: whether it said or printed a control character.
    """

    outcome: str
    message: str
    mib: float
    seconds: float
    left: tuple[str, ...] = ()
    written: int = 0
    steers: bool = False


def tried(call: Callable[[Path], object], folder: Path) -> Trial:
    """Make a call in a fork of this process, which has imported everything."""
    before = _files(folder)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os._exit(_in_child(call, folder, writing))
    os.close(writing)
    said = b""
    until = time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            break
        said += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    after = _files(folder)
    left = tuple(sorted(name for name in after if after[name] != before.get(name)))
    if not said:
        code = os.waitstatus_to_exitcode(status)
        return Trial("hung" if code == -signal.SIGKILL else f"died with {code}", "", 0, 0, left)
    written = sum(after[name][0] for name in left)
    return replace(Trial(**json.loads(said)), left=left, written=written)


def _in_child(call: Callable[[Path], object], folder: Path, writing: int) -> int:
    out, err = (os.open(folder.with_suffix(name), os.O_RDWR | os.O_CREAT) for name in (".1", ".2"))
    os.dup2(out, 1)
    os.dup2(err, 2)
    held = field("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST, resource.RLIM_INFINITY))
    forget_peak()
    before, started = field("VmRSS"), time.monotonic()
    try:
        outcome, message = _outcome(call, folder)
    except BaseException:
        outcome, message = "traceback", traceback.format_exc(limit=-4)
    taken, seconds = field("VmHWM") - before, time.monotonic() - started
    sys.stdout.flush()
    sys.stderr.flush()
    printed, said = _read(out), _read(err)
    if outcome.startswith("exit"):
        lines = said.strip().splitlines()
        clear = outcome == "exit 2" and len(lines) == 1
        outcome = {"exit 0": "read"}.get(outcome, "refused" if clear else outcome)
        message = said.strip()
    steers = any(_steers(text) for text in (printed, said, message))
    found = Trial(outcome, message, taken / 2**20, seconds, steers=steers)
    os.write(writing, json.dumps(asdict(found)).encode())
    return 0


def _read(number: int) -> str:
    os.lseek(number, 0, 0)
    with os.fdopen(number, errors="replace") as file:
        return file.read()


def _steers(text: str) -> bool:
    return any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in text)


def _outcome(call: Callable[[Path], object], folder: Path) -> tuple[str, str]:
    try:
        call(folder)
    except ParamattrError as error:
        return "refused", str(error)
    except SystemExit as ended:
        return f"exit {ended.code or 0}", ""
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return type(error).__name__, f"{error} ({Path(frame.filename).name}:{frame.lineno})"
    return "read", ""


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        try:
            about = path.lstat()
        except OSError:
            continue
        if not path.is_dir():
            found[str(path.relative_to(folder))] = (about.st_size, about.st_mtime_ns)
    return found

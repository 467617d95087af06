"""A signal stops a command: one line says what was kept, and the exit code is 128 + the signal.

Nothing but the standard library is imported here, so that a signal while modules are imported ends
in one line too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

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

"""JSON that somebody else wrote."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 2**24
"""Of a file."""


def parsed(text: str | bytes) -> Any:
    """Read JSON; whatever is wrong with it is a `ValueError`.

    Raises:
        ValueError: in one line, also for what is nested too deep or is no text.

    >>> parsed('{"text": "a"}')
    {'text': 'a'}
    >>> parsed("[" * 100_000)
    Traceback (most recent call last):
        ...
    ValueError: it is nested too deep
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parsed_file(path: Path) -> Any:
    """Read a file of JSON, of at most `MOST_BYTES`.

    Raises:
        OSError: if it cannot be read.
        ValueError: as `parsed` does; and for what is longer, or no file.
    """
    # O_NONBLOCK: a pipe that nobody writes to would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no file")
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes")
    return parsed(text)

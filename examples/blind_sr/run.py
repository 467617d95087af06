"""What every run does with its folder: a stamp that tells it from any other, and whole files."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramattr.files.reading import parsed
from paramattr.runtime.workers import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Advance = Callable[[float], None]
"""Called with the progress made since it was last called."""


def unseen(amount: float) -> None:
    """Show no progress."""


def progress(description: str, total: float) -> AbstractContextManager[Advance]:
    """Draw a bar on stderr, where a person watches it."""
    return progress_bar(description, total, show=sys.stderr.isatty())


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        CheckpointError: if it cannot be written.
    """
    from paramattr.files.writing import write_whole

    write_whole(path, json.dumps(content, indent=1) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same names as CSV, whole or not at all.

    Raises:
        CheckpointError: if it cannot be written.
    """
    from paramattr.files.writing import write_whole

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all.

    Raises:
        CheckpointError: if it cannot be written.
    """
    from paramattr.files.writing import write_whole

    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, drawn.getvalue())


def read_stamp(file: Path) -> dict[str, Any] | None:
    """Read the settings that a run was made with; None where there are none, or not whole."""
    try:
        found = parsed(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write what is not known as None, which JSON has, and not as NaN, which it has not."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }

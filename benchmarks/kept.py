"""The rows of a run that was cut: each step is measured once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.benchmark import Row
from paramattr.files.resume import check_stamp
from paramattr.files.writing import write_whole


class Kept:
    """A folder of the rows that were measured."""

    def __init__(self, folder: Path, stamp: dict[str, str]) -> None:
        self._folder, file = folder, folder / "settings.json"
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            check_stamp(json.loads(file.read_text()), stamp, f"folder {folder}", "remove it")
        write_whole(file, json.dumps(stamp))

    def rows(self, name: str, measure: Callable[[], list[Row]]) -> list[Row]:
        """Read what was measured, or measure it."""
        file = self._folder / f"{name.replace(':', '-').replace(' ', '-')}.json"
        if not file.exists():
            write_whole(file, json.dumps(measure()))
        rows: list[Row] = json.loads(file.read_text())
        return rows

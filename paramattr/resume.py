"""Interrupted runs: what was done is kept in a file, and a run of the same settings resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError


def check_stamp(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    place: str,
    way_out: str = "give another file, or remove this one",
) -> None:
    """Refuse to resume a run that was made with other settings.

    Args:
        found: the settings it was made with.
        wanted: the settings of this run, of the kinds JSON knows.
        place: what holds it, such as `"checkpoint run.safetensors"`.
        way_out: what to do about it.

    Raises:
        CheckpointError: naming every setting that differs.

    >>> check_stamp({"rule": "simpson"}, {"rule": "gausslegendre"}, "file a")
    Traceback (most recent call last):
        ...
    paramattr.errors.CheckpointError: file a was made with other settings (rule differs: 'simpson'
    there, 'gausslegendre' here): give another file, or remove this one
    """
    differing = [
        f"{key} differs: {_shown(found.get(key, 'nothing'))} there, "
        f"{_shown(wanted.get(key, 'nothing'))} here"
        for key in {**wanted, **found}
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{place} was made with other settings ({'; '.join(differing)}): {way_out}"
        )


class Unfinished:
    """A file that holds what a run has done so far.

    Args:
        path: the file; None keeps nothing.
        stamp: what tells this run from any other, of the kinds JSON knows. A file of another stamp
            is refused, and one that cannot be written shows now, not after the work.

    Attributes:
        tensors: what the file held; empty for a new run.
        notes: what was noted beside the stamp.

    Raises:
        CheckpointError: if the file is of another run, broken, or cannot be written.
    """

    def __init__(self, path: str | Path | None, stamp: Mapping[str, Any]) -> None:
        self.path, self.stamp = path, dict(stamp)
        self.tensors: dict[str, Tensor] = {}
        self.notes: dict[str, Any] = {}
        if path is None:
            return
        if not Path(path).exists():
            self.save({})
            return
        self.tensors, metadata = load_tensors(path)
        self.notes = metadata.pop("notes", {})
        check_stamp(metadata, self.stamp, f"checkpoint {path}")

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
        """Keep what is done so far, whole or not at all.

        Args:
            tensors: names to tensors.
            notes: what else to keep, of the kinds JSON knows.
        """
        if self.path is not None:
            save_state_dict(self.path, tensors, {**self.stamp, "notes": dict(notes or {})})


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

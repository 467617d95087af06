"""Interrupted runs: a file keeps the progress, and a run with the same settings resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError


def check_stamp(
    stamp: Mapping[str, Any],
    wanted: Mapping[str, Any],
    place: str,
    way_out: str = "give another file, or remove this one",
) -> None:
    """Reject resuming a run that was made with other settings.

    Args:
        stamp: the settings of the interrupted run.
        wanted: the settings of this run, serialisable as JSON.
        place: what holds the stamp, such as `"checkpoint run.safetensors"`.
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
        f"{key} differs: {_shown(stamp.get(key, 'nothing'))} there, "
        f"{_shown(wanted.get(key, 'nothing'))} here"
        for key in {**wanted, **stamp}
        if stamp.get(key) != wanted.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{place} was made with other settings ({'; '.join(differing)}): {way_out}"
        )


class Unfinished:
    """A file that holds the progress of a run.

    Args:
        path: the file; with None, nothing is kept.
        stamp: the settings that identify this run, serialisable as JSON. A file with another stamp
            is rejected. A file that cannot be written is reported at once, not after the work.

    Attributes:
        tensors: the tensors that the file held; empty for a new run.
        notes: the notes that were kept beside the stamp.

    Raises:
        CheckpointError: if the file belongs to another run, is broken, or cannot be written.
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
        """Write the progress so far, in full or not at all.

        Args:
            tensors: names to tensors.
            notes: anything else to keep, serialisable as JSON.
        """
        if self.path is not None:
            save_state_dict(self.path, tensors, {**self.stamp, "notes": dict(notes or {})})


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

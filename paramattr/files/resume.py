"""Interrupted runs: a file keeps the progress, and a run with the same settings resumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramattr.errors import CheckpointError, an
from paramattr.files.reading import load_tensors, save_state_dict
from paramattr.files.writing import progress_is_in

ABSENT = object()
"""The value of a setting that a run does not have."""
DIGEST = re.compile(r" ?[0-9a-f]{32,}$")


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
        f"{key} differs: {_difference(stamp.get(key, ABSENT), wanted.get(key, ABSENT))}"
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
        progress_is_in(path)
        if not Path(path).exists():
            self.save({})
            return
        self.tensors, metadata = load_tensors(path)
        notes = metadata.pop("notes", None)
        is_same_kind = metadata.get("kind") == self.stamp.get("kind")
        if is_same_kind and metadata.get("version") != self.stamp.get("version"):
            raise CheckpointError(
                f"checkpoint {path} was written by another version of paramattr, which told runs "
                "apart in another way: give another file, or remove this one"
            )
        check_stamp(metadata, self.stamp, f"checkpoint {path}")
        if not isinstance(notes, dict):
            raise self.broken(f"its notes are {an(type(notes))}")
        self.notes = notes

    def check(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
        """Refuse tensors of the file that are not of the kinds that were saved.

        Args:
            tensors: names to tensors of the file.
            like: names to tensors of the shape and precision that each must have.

        Raises:
            CheckpointError: naming the first that is missing, is too many, or differs.
        """
        for name in {**like, **tensors}:
            if name not in tensors or name not in like:
                raise self.broken(f"{name!r} is {'missing' if name in like else 'not expected'}")
            one, other = tensors[name], like[name]
            if one.shape != other.shape or one.dtype != other.dtype:
                raise self.broken(
                    f"{name!r} is {one.dtype} of shape {tuple(one.shape)}, not {other.dtype} of "
                    f"{tuple(other.shape)}"
                )
            # A share that was not measured is NaN, and of nothing else.
            if not torch.isfinite(one).all() and not name.endswith("/rest"):
                raise self.broken(f"{name!r} is not finite")

    def broken(self, reason: str) -> CheckpointError:
        """Make the error for a file whose content is not what was saved."""
        return CheckpointError(
            f"checkpoint {self.path} does not hold a run's progress as it was saved ({reason}): "
            "give another file, or remove this one"
        )

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
        """Write the progress so far, in full or not at all.

        Args:
            tensors: names to tensors.
            notes: anything else to keep, serialisable as JSON.
        """
        if self.path is not None:
            save_state_dict(self.path, tensors, {**self.stamp, "notes": dict(notes or {})})


def _difference(there: Any, here: Any) -> str:
    was, is_now = _shown(there), _shown(here)
    return f"{was} there, {'another' if was == is_now else is_now} here"


def _shown(value: Any) -> str:
    """Give a setting in words: of a rule its number of nodes, of code and tensors no digest."""
    if value is ABSENT:
        return "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, list) and [*map(type, value)] == [str, list, list]:
        return f"{value[0]} with {len(value[1])} node{'s' * (len(value[1]) != 1)}"
    if isinstance(value, str) and DIGEST.search(value):
        return DIGEST.sub("", value) or "one"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

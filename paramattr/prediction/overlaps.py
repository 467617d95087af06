"""The overlap of each sample's top units with the units of several conditions (Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.checkpoints import load_kind, save_state_dict, taken_apart
from paramattr.errors import DataError, UnitError, an
from paramattr.units.index import UnitIndex, check_same_units
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection

Rank = Callable[[Any], Scores]
"""A function from a sample to its scores."""


def check_found(found: Mapping[str, Selection], doing: str) -> None:
    """Refuse conditions without units, or of different units.

    Raises:
        UnitError: naming the first such condition.
    """
    if not found:
        raise UnitError("there is no condition: pass the units of at least one")
    first = next(iter(found.values()))
    for condition, selection in found.items():
        if not isinstance(condition, str):
            raise UnitError(f"condition {condition!r} has no name: expected a string")
        if not isinstance(selection, Selection):
            raise UnitError(
                f"the units of condition {condition!r} are {an(type(selection))}: "
                "expected a Selection, such as scores.top(fraction=0.01)"
            )
        if not len(selection):
            raise UnitError(f"condition {condition!r} has no unit: select at least one")
        check_same_units(first.index, selection.index, f"{doing} {condition!r}")


def overlap_scores(
    found: Mapping[str, Selection], rank: Rank | None, samples: Iterable[Any]
) -> dict[str, Float[Tensor, "samples"]]:
    """Give every sample's overlap score with every condition (Eq. 8).

    Args:
        found: condition to its units.
        rank: from a sample to its scores; None where the samples are `Scores`.
        samples: they are ranked one at a time.

    Returns:
        Condition to numbers from 0 to 1, one per sample.

    Raises:
        DataError: if there is no sample, or a sample cannot be ranked.
    """
    rows = [_overlaps(found, rank, number, sample) for number, sample in enumerate(samples)]
    if not rows:
        raise DataError("there is no sample: expected at least one")
    values = torch.tensor(rows, dtype=torch.float64)
    return {condition: values[:, place] for place, condition in enumerate(found)}


def checked_overlaps(
    found: Mapping[str, Selection], scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Read overlap scores that `overlap_scores` gave, in the conditions' order.

    Raises:
        DataError: unless there are as many numbers for each condition.
    """
    overlaps = {c: torch.as_tensor(scores[c]) for c in found if c in scores}
    shapes = {c: tuple(values.shape) for c, values in overlaps.items()}
    if shapes.keys() != found.keys() or len(set(shapes.values())) > 1:
        raise DataError(
            f"the overlap scores are {shapes or 'none'}: expected as many numbers "
            f"for each of {', '.join(map(repr, found))}, as scores(samples) returns"
        )
    return overlaps


def save_found(
    path: str | Path, kind: str, found: Mapping[str, Selection], description: Mapping[str, Any]
) -> None:
    """Write the conditions' units and a description to a safetensors file."""
    tensors, metadata = next(iter(found.values())).index.to_tensors()
    chosen = {f"chosen.{name}": selection.chosen for name, selection in found.items()}
    about = {"kind": kind, "conditions": list(found), **description}
    save_state_dict(path, {**tensors, **chosen}, {**about, **metadata})


def load_found(
    path: str | Path, kind: str, written_by: str, *fields: str
) -> tuple[dict[str, Selection], dict[str, Any]]:
    """Read what `save_found` wrote.

    Args:
        path: the file.
        kind: what it must hold.
        written_by: the method that writes it, for the error.
        fields: of the description.

    Returns:
        Condition to its units, and those fields.

    Raises:
        CheckpointError: if the file is missing or broken, or holds something else.
    """
    tensors, metadata = load_kind(path, kind, f"an {kind}, written by {written_by}")
    with taken_apart(path, f"an {kind}"):
        index = UnitIndex.from_tensors(tensors, metadata)
        found = {c: Selection(index, tensors[f"chosen.{c}"]) for c in metadata["conditions"]}
        return found, {name: metadata[name] for name in fields}


def _overlaps(
    found: Mapping[str, Selection], rank: Rank | None, number: int, sample: Any
) -> list[float]:
    scores = sample if rank is None else rank(sample)
    if not isinstance(scores, Scores):
        raise DataError(
            f"sample {number} is ranked by {an(type(scores))}: expected Scores; pass "
            "rank=lambda sample: faig.score([sample], reducer=...), or Scores as samples"
        )
    if bool((scores.values == scores.values[0]).all()):
        raise DataError(
            f"sample {number} gives every unit the score {float(scores.values[0]):g}: expected "
            "scores that differ, since equal scores have no top; both models may give the same "
            "output for this sample, so leave it out"
        )
    return [
        scores.top(count=len(selection), warn=False).overlap(selection)
        for selection in found.values()
    ]

"""Files of scores: the units, the numbers of each, and what conditions have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from paramattr.checkpoints import load_kind, save_state_dict, taken_apart
from paramattr.errors import UnitError
from paramattr.units.covariances import Covariances, Paired
from paramattr.units.index import UnitIndex

PER_UNIT = ("values", "signed", "standard_error", "signed_error")


def scores_apart(
    numbers: Mapping[str, Tensor], notes: Mapping[str, Any], paired: Paired | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Give the tensors and the metadata that hold scores, beside their units.

    Args:
        numbers: by the names of `PER_UNIT`, `(units,)`.
        notes: what else belongs to the scores, serialisable as JSON.
        paired: what they have in common with other conditions.
    """
    tensors, metadata = dict(numbers), dict(notes)
    if paired is not None:
        tensors["covariances"] = paired.covariances.of_pairs
        if paired.covariances.of_signed is not None:
            tensors["signed_covariances"] = paired.covariances.of_signed
        metadata["weights"] = paired.weights
    return tensors, metadata


def write_scores(
    path: str | Path, index: UnitIndex, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write scores, as `scores_apart` gives them, and their units to a safetensors file.

    Raises:
        CheckpointError: if it cannot be written.
    """
    of_units, about = index.to_tensors()
    save_state_dict(path, of_units | dict(tensors), {**about, "kind": "scores", **metadata})


def read_scores(path: str | Path) -> tuple[UnitIndex, dict[str, Tensor], dict[str, Any]]:
    """Read what `write_scores` wrote: the units, and what holds the scores.

    Raises:
        CheckpointError: if the file is missing, broken, or holds no scores.
    """
    tensors, metadata = load_kind(path, "scores", "scores, written by Scores.save")
    with taken_apart(path, "scores"):
        return UnitIndex.from_tensors(tensors, metadata), tensors, metadata


def scores_together(
    index: UnitIndex, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Give the arguments that `Scores` takes beside the units, `agreement` and `rank`.

    Raises:
        UnitError: if what `scores_apart` gave does not fit together.
    """
    for name in PER_UNIT:
        if name in tensors and not tensors[name].is_floating_point():
            raise UnitError(f"{name} is {tensors[name].dtype}: expected floating-point numbers")
    paired = None
    if "covariances" in tensors:
        weights = [float(weight) for weight in metadata["weights"]]
        pairs = len(weights) * (len(weights) + 1) // 2
        of_pairs, of_signed = tensors["covariances"], tensors.get("signed_covariances")
        for table in (of_pairs, of_signed):
            if table is not None and table.shape != (pairs, len(index)):
                raise UnitError(
                    f"the covariances have shape {tuple(table.shape)}: expected "
                    f"({pairs}, {len(index)})"
                )
        paired = Paired(Covariances(len(weights), of_pairs, of_signed), weights)
    residual = metadata.get("residual")
    return {
        "values": tensors["values"],
        "signed": tensors.get("signed"),
        "standard_error": tensors.get("standard_error"),
        "signed_error": tensors.get("signed_error"),
        "unassigned": metadata.get("unassigned", 0.0),
        "samples": metadata.get("samples", 0),
        "paired": paired,
        "residual": math.nan if residual is None else float(residual),
        "agreement": metadata.get("agreement"),
        "rank": metadata.get("rank", "magnitude"),
    }

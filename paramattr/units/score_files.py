"""Files of scores: the units, the numbers of each, and what conditions have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError
from paramattr.units.covariances import Covariances, Paired
from paramattr.units.index import UnitIndex

PER_UNIT = ("values", "signed", "standard_error")


def write_scores(
    path: str | Path,
    index: UnitIndex,
    numbers: Mapping[str, Tensor],
    notes: Mapping[str, Any],
    paired: Paired | None,
) -> None:
    """Write scores and their units to a safetensors file.

    Args:
        path: the file.
        index: the units.
        numbers: by the names of `PER_UNIT`, `(units,)`.
        notes: what else belongs to the scores, serialisable as JSON.
        paired: what they have in common with other conditions.

    Raises:
        CheckpointError: if it cannot be written.
    """
    tensors, metadata = index.to_tensors()
    tensors |= numbers
    metadata |= {"kind": "scores", **notes}
    if paired is not None:
        tensors["covariances"] = paired.covariances.of_pairs
        metadata["weights"] = paired.weights
    save_state_dict(path, tensors, metadata)


def read_scores(path: str | Path) -> dict[str, Any]:
    """Read what `write_scores` wrote: the arguments that `Scores` takes, `spent` and `agreement`.

    Raises:
        CheckpointError: if the file is missing, broken, or holds no scores.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != "scores":
        raise CheckpointError(
            f"file {path} holds {metadata.get('kind') or 'something else'}: expected scores, "
            "written by Scores.save"
        )
    paired = None
    if "covariances" in tensors:
        weights = metadata["weights"]
        paired = Paired(Covariances(len(weights), tensors["covariances"]), weights)
    return {
        "index": UnitIndex.from_tensors(tensors, metadata),
        "values": tensors["values"],
        "signed": tensors.get("signed"),
        "standard_error": tensors.get("standard_error"),
        "unassigned": metadata.get("unassigned", 0.0),
        "samples": metadata.get("samples", 0),
        "paired": paired,
        "spent": metadata.get("spent"),
        "agreement": metadata.get("agreement"),
    }

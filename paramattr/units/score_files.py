"""Files of scores: the units, the numbers of each, and what conditions have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramattr.checkpoints import load_tensors, save_state_dict
from paramattr.errors import CheckpointError
from paramattr.units.covariances import Covariances, Paired
from paramattr.units.index import UnitIndex

if TYPE_CHECKING:
    from paramattr.units.scores import Scores

PER_UNIT = ("values", "signed", "standard_error")


def write_scores(scores: Scores, paired: Paired | None, path: str | Path) -> None:
    """Write scores and their units to a safetensors file.

    Raises:
        CheckpointError: if it cannot be written.
    """
    tensors, metadata = scores.index.to_tensors()
    tensors |= {name: getattr(scores, name) for name in PER_UNIT}
    metadata |= {"kind": "scores", "unassigned": scores.unassigned, "samples": scores.samples}
    if paired is not None:
        tensors["covariances"] = paired.covariances.of_pairs
        metadata["weights"] = paired.weights
    save_state_dict(path, tensors, metadata)


def read_scores(path: str | Path) -> dict[str, Any]:
    """Read what `write_scores` wrote, as the arguments that `Scores` takes.

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
    }

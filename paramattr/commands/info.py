"""The content of a file, one of ours or a trainer's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from paramattr.errors import CheckpointError
from paramattr.files.folders import config as config_of
from paramattr.files.folders import is_folder_of_model, weight_files
from paramattr.files.reading import load_state_dict, load_tensors, parsed_file
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection
from paramattr.units.showing import name_of

SHOWN = 5


def describe(path: str | Path) -> dict[str, Any]:
    """Say what a file holds: scores, a selection, progress of a run, tensors, or JSON rows.

    Args:
        path: a file that paramattr wrote, a state dict, or a folder of Hugging Face.

    Returns:
        `kind`, and what there is to say of it, in kinds that JSON knows.

    Raises:
        CheckpointError: if it is missing, broken, or of none of these kinds.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".json":
        return _rows(path)
    if not path.is_file():
        raise CheckpointError(f"file {path} is not there: give a file that paramattr wrote")
    if path.suffix == ".safetensors":
        return _ours(path)
    return {"kind": "state dict", **_tensors(load_state_dict(path))}


def _ours(path: Path) -> dict[str, Any]:
    tensors, metadata = load_tensors(path)
    kind = metadata.get("kind")
    if kind == "scores":
        scores = Scores.load(path)
        order = scores.rank()[:SHOWN].tolist()
        return {
            "kind": kind,
            "units": len(scores),
            "range": [float(scores.values.min()), float(scores.values.max())],
            "unassigned": None if math.isnan(scores.unassigned) else scores.unassigned,
            "has_standard_error": not bool(scores.standard_error.isnan().all()),
            "top": {name_of(scores.index[n]): float(scores.values[n]) for n in order},
        }
    if kind == "selection":
        selection = Selection.load(path)
        layers = {name: count for name, count in selection.by_layer().items() if count}
        return {
            "kind": kind,
            "selected": len(selection),
            "units": len(selection.index),
            "layers": layers,
        }
    if kind is not None:
        return {"kind": kind, **_tensors(tensors)}
    return {"kind": "state dict", **_tensors(tensors)}


def _tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    shown = list(tensors.items())[:SHOWN]
    return {
        "tensors": len(tensors),
        "entries": sum(tensor.numel() for tensor in tensors.values()),
        "dtypes": dtypes,
        "first": {name: list(tensor.shape) for name, tensor in shown},
    }


def _folder(path: Path) -> dict[str, Any]:
    if not is_folder_of_model(path):
        raise CheckpointError(
            f"folder {path} holds no model: expected one of Hugging Face, or a file"
        )
    files = weight_files(path)
    if (path / "adapter_config.json").is_file():
        found = config_of(path, "adapter_config.json")
        keys = ("peft_type", "task_type", "r", "base_model_name_or_path", "target_modules")
        return {"kind": "adapter", **{key: found.get(key) for key in keys}}
    found = config_of(path)
    return {
        "kind": "model",
        "architectures": found.get("architectures"),
        "model_type": found.get("model_type"),
        "quantised": "quantization_config" in found,
        "weights": [file.name for file in files],
    }


def _rows(path: Path) -> dict[str, Any]:
    try:
        found = parsed_file(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"file {path} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        return {"kind": "JSON", "entries": len(found) if isinstance(found, list) else 1}
    sizes = {
        key: len(value) if isinstance(value, list | dict) else value for key, value in found.items()
    }
    return {"kind": "JSON", "keys": sizes}

"""What a folder's settings ask for, beside what its weights can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from paramattr.errors import CheckpointError
from paramattr.folders import config
from paramattr.listing import weight_files

SIZES = (
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
    "num_labels",
    "d_model",
    "d_ff",
    "n_embd",
    "n_inner",
    "n_positions",
    "num_experts",
    "num_local_experts",
)
LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
)
SLACK = 1_000_000
"""Entries that a model may have beyond those in its files: a new head."""
ENTRIES_OF_BYTE = 8
"""No file holds more."""
BYTES_OF_LAYER = 64
"""A layer has a tensor at least, and a file says its name."""


def check_index(folder: Path) -> None:
    """Refuse an index of shards that names files outside its folder, or that are not there.

    Raises:
        CheckpointError: naming the index and the file.
    """
    for file in sorted(folder.glob("*.index.json")):
        places = config(folder, file.name).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise CheckpointError(
                f"index {file} has no weight_map: expected names of tensors to files beside it; "
                "save the model again"
            )
        for name in dict.fromkeys(map(_named, places.values())):
            path = PurePosixPath(name.replace("\\", "/"))
            if not name or path.is_absolute() or ".." in path.parts or ":" in name:
                raise CheckpointError(
                    f"index {file} names {name[:80]!r}, which is not inside its folder: expected "
                    "files beside it; save the model again"
                )
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"index {file} names {name[:80]!r}, which is not there: copy the folder again"
                )


def check_sizes(settings: Mapping[str, Any], folder: Path, *, name: str = "config.json") -> None:
    """Refuse settings of a model that its files cannot hold.

    Raises:
        CheckpointError: naming the setting.
    """
    held = sum(file.stat().st_size for file in weight_files(folder))
    most = {
        **dict.fromkeys(SIZES, ENTRIES_OF_BYTE * held + SLACK),
        **dict.fromkeys(LAYERS, held // BYTES_OF_LAYER + 1),
    }
    for key, value in _numbers(settings):
        if key in most and not 0 <= value <= most[key]:
            raise CheckpointError(
                f"file {folder / name} asks for {key} {value}, and the weights beside it have "
                f"{held} bytes: expected 0 to {most[key]}; copy the folder again"
            )


def check_built(kind: Any, folder: Path, **options: Any) -> None:
    """Refuse a model with far more parameters than its files can hold, before it takes memory.

    Args:
        kind: a class of transformers.
        folder: of the model.
        options: of its configuration.

    Raises:
        CheckpointError: with both numbers.
    """
    from transformers import AutoConfig

    try:
        settings = options.pop("config", None) or AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )
        with torch.device("meta"):
            build = kind.from_config if hasattr(kind, "from_config") else kind
            model = build(settings)
    except Exception:  # what is wrong with it shows when it is read
        return
    asked = sum(parameter.numel() for parameter in model.parameters())
    held = sum(file.stat().st_size for file in weight_files(folder))
    if asked > ENTRIES_OF_BYTE * held + SLACK:
        raise CheckpointError(
            f"file {folder / 'config.json'} asks for a model of {asked} parameters, and the "
            f"weights beside it have {held} bytes: expected settings of these weights; copy the "
            "folder again"
        )


def _named(name: Any) -> str:
    return name if isinstance(name, str) else ""


def _numbers(settings: Any, depth: int = 4) -> Iterator[tuple[str, int]]:
    if isinstance(settings, dict) and depth:
        for key, value in settings.items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield key, value
            else:
                yield from _numbers(value, depth - 1)

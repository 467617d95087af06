"""Files of `torch.save`, read without running any code in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramattr.errors import CheckpointError, one_line

_REFUSED = re.compile(r"GLOBAL \S+|(unrecognized|class|function) \S+")  # by torch's safe reader


def load_torch_file(path: Path, device: str = "cpu") -> Any:
    """Read what a `torch.save` file holds: tensors and plain containers.

    Args:
        path: a file that is there.
        device: where to.

    Raises:
        CheckpointError: if it cannot be read, holds pickled code, or claims to hold more than its
            own length.
    """
    _check_lengths(path)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a broken pickle may raise anything
        pickled = isinstance(error, pickle.UnpicklingError)
        refused = _REFUSED.search(str(error)) if pickled else None
        if refused:
            raise CheckpointError(
                f"checkpoint {path} holds pickled code or objects ({refused[0]}), which could "
                "run anything when read: expected only tensors and plain containers; if "
                "you trust the file, load it yourself and save its state dict with "
                "torch.save(model.state_dict(), ...)"
            ) from None
        reason = "no such pickle" if pickled else one_line(error)
        raise CheckpointError(
            f"checkpoint {path} cannot be read: expected a whole safetensors or torch.save "
            f"file, found {reason}; copy or save it again"
        ) from None


def check_held(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that hold no data of their own: on no device, sparse, or stretched.

    Raises:
        CheckpointError: naming the tensor.
    """
    most = path.stat().st_size
    for name, tensor in state.items():
        if tensor.device.type == "meta" or tensor.layout != torch.strided or tensor.is_nested:
            found = "without data" if tensor.device.type == "meta" else f"of {tensor.layout}"
        elif tensor.numel() * tensor.element_size() > most:
            found = f"stretched to {tensor.numel()} entries in a file of {most} bytes"
        else:
            continue
        raise CheckpointError(
            f"checkpoint {path} holds {_shown(name)} {found}: expected dense tensors; save "
            "it again with tensor.to_dense().clone()"
        )


def _check_lengths(path: Path) -> None:
    """Refuse an archive whose records are compressed: torch writes them as they are."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as file:
            claimed = sum(record.file_size for record in file.infolist())
    except Exception:  # torch says what is wrong with a broken archive
        return
    if claimed > path.stat().st_size:
        raise CheckpointError(
            f"checkpoint {path} has {path.stat().st_size} bytes and claims to hold {claimed}: "
            "expected records that are not compressed, as torch.save writes them; save it again"
        )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")

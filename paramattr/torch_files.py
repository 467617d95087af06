"""Files of `torch.save`, read without running any code in them."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

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
    check_archive(path)
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


def check_archive(path: Path) -> None:
    """Refuse an archive that is not as torch writes it: its records as they are, listed once.

    A compressed record takes a thousand times its length to read. What is no archive passes.

    Raises:
        CheckpointError: saying what is wrong.
    """
    try:
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\3\4"  # what torch tells it by
            if not is_archive:
                return
            is_listed_once = _is_listed_once(file)
            records = zipfile.ZipFile(file).infolist() if is_listed_once else []
    except Exception as error:  # the reader of a broken archive fails in several ways
        raise CheckpointError(
            f"checkpoint {path} cannot be read: expected a whole archive, as torch.save writes it, "
            f"found {one_line(error)}; copy or save it again"
        ) from None
    most = path.stat().st_size
    if not is_listed_once:
        found = "is cut, or goes on after its list of records, or has two of them"
    elif any(record.compress_type != zipfile.ZIP_STORED for record in records):
        found = "has compressed records"
    elif sum(record.file_size for record in records) > most:
        found = f"has {most} bytes and claims to hold more"
    else:
        return
    raise CheckpointError(
        f"checkpoint {path} {found}: expected an archive of records that are not compressed, as "
        "torch.save writes it; save it again"
    )


def _is_listed_once(file: BinaryIO) -> bool:
    """Say whether the list of records ends right before an archive's end, where torch finds it.

    Python goes to the list by its size, torch by its place. Where the two differ, the list that is
    checked would not be the one that is read.
    """
    length = file.seek(0, 2)
    file.seek(max(0, length - 98))
    last = file.read().rjust(98, b"\0")
    locator, end = last[56:76], last[76:]
    size, place = struct.unpack("<LL", end[12:20])
    until = length - 22
    if locator[:4] == b"PK\6\7":  # what is longer than 4 GiB says so in a record before
        until = length - 98
        if struct.unpack("<Q", locator[8:16])[0] != until or last[:4] != b"PK\6\6":
            return False
        size, place = struct.unpack("<QQ", last[40:56])
    return end[:4] == b"PK\5\6" and end[20:] == b"\0\0" and place + size == until


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")

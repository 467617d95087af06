"""Files that somebody else wrote: JSON, tensors and archives, read without running their code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paramattr.errors import CheckpointError, ParamattrError, an, one_line
from paramattr.files.writing import write_whole

MOST_BYTES = 2**24
"""Of a file."""


def parsed(text: str | bytes) -> Any:
    """Read JSON; whatever is wrong with it is a `ValueError`.

    Raises:
        ValueError: in one line, also for what is nested too deep or is no text.

    >>> parsed('{"text": "a"}')
    {'text': 'a'}
    >>> parsed("[" * 100_000)
    Traceback (most recent call last):
        ...
    ValueError: it is nested too deep
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parsed_file(path: Path) -> Any:
    """Read a file of JSON, of at most `MOST_BYTES`.

    Raises:
        OSError: if it cannot be read.
        ValueError: as `parsed` does; and for what is longer, or no file.
    """
    # O_NONBLOCK: a pipe that nobody writes to would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no file")
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes")
    return parsed(text)


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


WRAPPINGS = ("params_ema", "params", "state_dict", "model_state_dict")
"""Keys under which trainers store the state dict, in order of preference (BasicSR: the EMA)."""

_METADATA_KEY = "paramattr"
_CHECKSUM_KEY = "crc32 of all else"


def load_state_dict(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or `torch.save` file, without running any code in it.

    A dict of dicts is unwrapped (`params_ema`, `params`, `state_dict`, `model_state_dict`, in this
    order). A `module.` prefix is stripped if every name carries it.

    Args:
        path: the file.
        key: the wrapping key to use if the file has several; by default the first in that order.

    Returns:
        Names to tensors, on the CPU, in the file's precision.

    Raises:
        CheckpointError: if the file is missing or unreadable, holds pickled code, or holds no
            state dict.
    """
    path = Path(path)
    _check_is_file(path)
    if _is_safetensors(path):
        contents: Any = load_tensors(path)[0]
    else:
        contents = load_torch_file(path)
    state = _unwrapped(contents, path, key)
    check_held(state, path)
    return _without_prefix(state)


def save_state_dict(
    path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a state dict as safetensors, in full or not at all.

    Args:
        path: the file; a missing folder is created.
        state: names to tensors. Tensors that share memory are each written out.
        metadata: anything else to keep, serialisable as JSON.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"entry {name!r} for file {path} is {an(type(tensor))}: expected a tensor; "
                "put anything else into metadata"
            )
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    about = dict(metadata or {})
    # Under the one key: several would be written in another order each time.
    checked = json.dumps({**about, _CHECKSUM_KEY: _checksum(tensors, about)})
    try:
        data = save(tensors, {_METADATA_KEY: checked})
    except SafetensorError as error:
        raise CheckpointError(
            f"file {path} cannot be written ({error}): expected tensors that safetensors can hold"
        ) from None
    write_whole(path, data)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file, and the metadata that `save_state_dict` wrote.

    Raises:
        CheckpointError: if the file is missing, is not a complete safetensors file, or is not as
            `save_state_dict` wrote it.
    """
    path = Path(path)
    _check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = parsed((file.metadata() or {}).get(_METADATA_KEY, "{}"))
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata is {an(type(metadata))}")
        checksum = metadata.pop(_CHECKSUM_KEY, None)
        is_whole = checksum is None or checksum == _checksum(tensors, metadata)
    except Exception as error:  # the reader of a broken file fails in several ways
        raise CheckpointError(
            f"file {path} is not a whole safetensors file ({one_line(error)}): write it again"
        ) from None
    if not is_whole:
        raise CheckpointError(
            f"file {path} is damaged: its content does not fit its checksum; expected it as it was "
            "written; copy it again, or remove it and write it again"
        )
    return tensors, metadata


def load_kind(
    path: str | Path, kind: str, expected: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `load_tensors` reads, of a file that says what kind of thing it holds.

    Args:
        path: the file.
        kind: what its metadata must say.
        expected: the thing and what writes it, for the error.

    Raises:
        CheckpointError: as `load_tensors`, and for a file of another kind.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != kind:
        raise CheckpointError(
            f"file {path} holds {metadata.get('kind') or 'something else'}: expected {expected}"
        )
    return tensors, metadata


@contextmanager
def taken_apart(path: str | Path, what: str) -> Iterator[None]:
    """Say which file it was, where its content turns out not to be what it should.

    Args:
        path: of the file.
        what: it should hold.

    Raises:
        CheckpointError: for any error inside the block.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, KeyError):
            reason = f"it lacks {reason}"
        elif not isinstance(error, ParamattrError):
            reason = f"{type(error).__name__}: {reason}"
        raise CheckpointError(
            f"file {path} does not hold {what} as paramattr writes it ({reason}): write it again, "
            "or remove it"
        ) from None


def content(tensor: Tensor) -> bytes:
    """Return a tensor's shape, precision and values as bytes, for a digest."""
    values = tensor.detach().cpu().flatten().contiguous().view(torch.uint8)
    return f"{tuple(tensor.shape)} {tensor.dtype} ".encode() + values.numpy().tobytes()


def fingerprint(states: Iterable[Mapping[str, Tensor]]) -> str:
    """Digest the names and contents of tensors, to tell runs apart."""
    digest = hashlib.sha256()
    for state in states:
        for name, tensor in state.items():
            digest.update(name.encode() + content(tensor))
    return digest.hexdigest()


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    # Through JSON once, which turns tuples into lists and numbers that are keys into text.
    found = zlib.crc32(json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), found)
        found = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _check_is_file(path: Path) -> None:
    try:
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"file {str(path)[:200]} cannot be looked at ({one_line(error)}): give the path of a "
            "checkpoint file"
        ) from None
    if not is_file:
        raise CheckpointError(f"file {path} is not there: give the path of a checkpoint file")


def _is_safetensors(path: Path) -> bool:
    # A safetensors file starts with the header's length in 8 bytes, then the header's brace.
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _unwrapped(contents: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    keys = (key,) if key is not None else WRAPPINGS
    for candidate in keys:
        if isinstance(contents, Mapping) and isinstance(contents.get(candidate), Mapping):
            contents = contents[candidate]
            break
    else:
        if key is not None:
            is_mapping = isinstance(contents, Mapping)
            raise CheckpointError(
                f"checkpoint {path} has no state dict under {key!r}: found "
                f"{', '.join(map(str, contents)) if is_mapping else type(contents)}"
            )
    if not isinstance(contents, Mapping) or not contents:
        raise CheckpointError(
            f"checkpoint {path} is not a state dict: expected names to tensors, found "
            f"{'nothing' if isinstance(contents, Mapping) else type(contents).__name__}"
        )
    for name, value in contents.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise CheckpointError(
                f"checkpoint {path} is not a state dict: expected names to tensors, found {name!r} "
                f"of type {type(value).__name__}; name the key that wraps the state dict (key=...)"
            )
    return dict(contents)


def _without_prefix(state: dict[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    names = [name for name in state if name != "n_averaged"]  # a counter of averaged models
    if names and all(name.startswith(prefix) for name in names):
        return {name.removeprefix(prefix): state[name] for name in names}
    return state

"""Checkpoint files: safetensors to write; safetensors and code-free `torch.save` files to read."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paramattr.errors import CheckpointError, ParamattrError, an, one_line
from paramattr.json_text import parsed
from paramattr.torch_files import check_held, load_torch_file
from paramattr.whole_files import write_whole

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

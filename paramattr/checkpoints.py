"""Checkpoint files: safetensors to write; safetensors and code-free `torch.save` files to read."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paramattr.errors import CheckpointError

WRAPPINGS = ("params_ema", "params", "state_dict", "model_state_dict")
"""Keys under which trainers store the state dict, in order of preference (BasicSR: the EMA)."""

_METADATA_KEY = "paramattr"
_REFUSED = re.compile(r"GLOBAL \S+|(unrecognized|class|function) \S+")  # by torch's safe reader


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
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
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
            reason = "no such pickle" if pickled else _first_line(error)
            raise CheckpointError(
                f"checkpoint {path} cannot be read: expected a whole safetensors or torch.save "
                f"file, found {reason}; copy or save it again"
            ) from None
    return _without_prefix(_unwrapped(contents, path, key))


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
                f"entry {name!r} for file {path} is a {type(tensor).__name__}: expected a tensor; "
                "put anything else into metadata"
            )
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    try:
        data = save(tensors, {_METADATA_KEY: json.dumps(dict(metadata or {}))})
    except SafetensorError as error:
        raise CheckpointError(
            f"file {path} cannot be written ({error}): expected tensors that safetensors can hold"
        ) from None
    write_whole(path, data)


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a file in full or not at all: a killed process leaves the old file, or none.

    Args:
        path: the file; a missing folder is created.
        data: the content; text is written as UTF-8.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.replace(path)  # with the user's own file permissions
    except OSError as error:
        raise CheckpointError(
            f"file {path} cannot be written ({error}): choose a folder that you can write to"
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file, and the metadata that `save_state_dict` wrote.

    Raises:
        CheckpointError: if the file is missing or is not a complete safetensors file.
    """
    path = Path(path)
    _check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"file {path} is not a whole safetensors file ({_first_line(error)}): write it again"
        ) from None
    return tensors, metadata


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


def _check_is_file(path: Path) -> None:
    if not path.is_file():
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

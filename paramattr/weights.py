"""The weights in a folder: where each tensor lies, its values, and writing it in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paramattr.errors import CheckpointError, an, one_line
from paramattr.listing import weight_files
from paramattr.torch_files import check_held, load_torch_file


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: that holds it.
        name: that it goes by there.
        shape: of it.
        is_floating: whether it holds floating-point numbers, in any precision.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    is_floating: bool

    def read(self) -> Tensor:
        """Read its values.

        Raises:
            CheckpointError: if the file cannot be read.
        """
        return _tensors(self.file, [self.name])[self.name]


def weights_of(folder: Path) -> dict[str, list[Stored]]:
    """List the tensors of a folder's files by name; several files may hold one of the same name.

    Raises:
        CheckpointError: if a file is not whole, holds pickled code, or there is none.
    """
    found: dict[str, list[Stored]] = {}
    for file in weight_files(folder):
        for name, shape, is_floating in _entries(file):
            found.setdefault(name, []).append(Stored(file, name, shape, is_floating))
    if not found:
        raise CheckpointError(
            f"folder {folder} holds no weights: expected .safetensors files, or pytorch_model.bin"
        )
    return found


def rewrite(file: Path, names: list[str], change: Callable[[str, Tensor], Tensor]) -> None:
    """Write some tensors of a file anew, in place; every other byte of a safetensors file stays.

    Args:
        file: a whole file of weights.
        names: the tensors.
        change: of a name and its values, to values of the same shape and precision.

    Raises:
        CheckpointError: if it cannot be read or written.
    """
    try:
        if file.suffix == ".safetensors":
            places = _places(file)
            for name in names:
                value = change(name, _tensors(file, [name])[name]).contiguous()
                with file.open("r+b") as opened:
                    opened.seek(places[name])
                    opened.write(value.flatten().view(torch.uint8).numpy().tobytes())
            return
        state = _tensors(file)
        for name in names:  # in place: a tied tensor keeps sharing its memory
            state[name].copy_(change(name, state[name].clone()))
        torch.save(state, file)
    except OSError as error:
        raise CheckpointError(f"file {file} cannot be written ({error})") from None


def _entries(file: Path) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    if file.suffix != ".safetensors":
        for name, value in _tensors(file).items():
            if isinstance(value, Tensor):
                yield name, tuple(value.shape), value.is_floating_point()
        return
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                part = opened.get_slice(name)
                kind = part.get_dtype()
                yield name, tuple(part.get_shape()), kind.startswith(("F", "BF"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"file {file} is not a whole safetensors file ({error})") from None


def _tensors(file: Path, names: list[str] | None = None) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in names or opened.keys()}
        except Exception as error:  # a broken file may raise anything
            raise CheckpointError(
                f"file {file} cannot be read: expected tensors alone; {one_line(error)}"
            ) from None
    state = load_torch_file(file)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"file {file} holds {an(type(state))}: expected a state dict")
    check_held({name: value for name, value in state.items() if isinstance(value, Tensor)}, file)
    return dict(state)


def _places(file: Path) -> dict[str, int]:
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}

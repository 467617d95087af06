"""An edited copy of a model's folder: the selected entries between a base's values and its own."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from paramattr.errors import CheckpointError, ModelError, ParamattrError, UnitError
from paramattr.files.folders import (
    Listing,
    Stored,
    check_folder,
    config,
    listing,
    rewrite,
    weights_of,
)
from paramattr.files.reading import parsed_file
from paramattr.files.writing import whole_folder
from paramattr.units.selection import Selection

ADAPTER = "adapter_config.json"
_PART = 2**20
"""Bytes that are copied at once."""


@dataclass(frozen=True)
class Config:
    """The settings of one edit.

    Attributes:
        folder: folder of the tuned model, or of a LoRA adapter.
        selection: file that `Selection.save` wrote.
        out: folder that is made.
        strength: 0 gives the base's values, 1 the tuned model's.
        base: folder of the model that it was tuned from. By default it is what `paramattr diff`
            wrote beside the selection, or what the folder's `config.json` names. An adapter needs
            none.

    Raises:
        ParamattrError: for a strength that is not finite, or an `out` that cannot be made.
    """

    folder: Path
    selection: Path
    out: Path
    strength: float = 0.0
    base: Path | None = None

    def __post_init__(self) -> None:
        if not abs(self.strength) <= torch.finfo(torch.float32).max:
            raise ModelError(
                f"--strength is {self.strength}: expected a finite number, 0 for the base's values "
                "and 1 for the tuned model's"
            )
        out, folder = self.out.resolve(), self.folder.resolve()
        if out == folder or folder in out.parents:
            raise CheckpointError(
                f"--out {self.out} lies in {self.folder}, which stays as it is: choose a folder "
                "outside it"
            )
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise CheckpointError(f"--out {self.out} is there already: choose a new folder")


@dataclass(frozen=True)
class Result:
    """The folder that was written.

    Attributes:
        out: the folder.
        base: the folder that the base's values are from; None for an adapter, whose are zero.
        strength: place of the entries between the two: 0 the base, 1 the tuned model.
        units: number that is selected, of `all_units`.
        entries: number that lies in them, of `all_entries` in the folder.
        tensors: number that holds such entries.
        notes: sentences on what stayed as it was although it is selected, and on what was not
            copied.
    """

    out: Path
    base: Path | None
    strength: float
    units: int
    all_units: int
    entries: int
    all_entries: int
    tensors: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Edit:
    """One tensor's: its mask, and the base's values; None for zero."""

    mask: Bool[Tensor, "..."]
    base: Stored | None


def run(config: Config) -> Result:
    """Write the edited folder, in full or not at all.

        strength * tuned + (1 - strength) * base

    in the selected entries; every other entry, and every other file, is the folder's own, bit for
    bit. Precisions and shards stay; a half precision is blended in float32 and rounded once.

    Args:
        config: the settings.

    Raises:
        CheckpointError: if a folder or file is missing, broken, or cannot be written.
        UnitError: if the selection is empty, or of another model.
        ModelError: if a tensor is quantised, or an edit gives a value that is not finite, or a
            variance below zero.
        ParamattrError: if the base is not known.
    """
    check_folder(config.folder)
    selection = Selection.load(config.selection)
    if not len(selection):
        raise UnitError(f"the selection {config.selection} is empty: there is nothing to apply")
    is_adapter = (config.folder / ADAPTER).is_file()
    base = None if is_adapter else _base(config)
    held = weights_of(config.folder)
    names = _names(selection, held, config, is_adapter=is_adapter)
    edits, notes = _edits(selection, names, held, base)
    if is_adapter and config.base is not None:
        notes.append(f"{config.base} is not read: without its adapter a base has zeros there.")
    listed = listing(config.folder)
    notes += _passed_over(listed)
    _check_room(config, listed)
    with whole_folder(config.out) as made:
        _copy(config.folder, listed, made)
        if config.strength != 1:
            _write(edits, held, made, config.strength)
    return Result(
        config.out,
        base,
        config.strength,
        len(selection),
        len(selection.index),
        sum(int(edit.mask.sum()) for edit in edits.values()),
        sum(math.prod(places[0].shape) for places in held.values()),
        len(edits),
        tuple(notes),
    )


def _base(config: Config) -> Path:
    base = config.base or _noted_base(config)
    if base is None:
        raise ParamattrError(
            f"the model that {config.folder} was tuned from is not known: give --base FOLDER"
        )
    check_folder(base)
    if (base / ADAPTER).is_file():
        raise ModelError(f"the base {base} is an adapter: expected the folder of a whole model")
    return base


def _noted_base(given: Config) -> Path | None:
    noted: list[Any] = [config(given.folder).get("_name_or_path")]
    with suppress(OSError, ValueError, KeyError, TypeError):
        beside = parsed_file(given.selection.parent / "diff.json")
        noted.insert(0, beside["settings"]["base"])
    places = [Path(name) for name in noted if name and isinstance(name, str)]
    return next((place for place in places if place.is_dir()), None)


def _names(
    selection: Selection, held: dict[str, list[Stored]], config: Config, *, is_adapter: bool
) -> dict[str, str]:
    """Give the name in the files of each parameter and buffer with units."""
    shapes = selection.index.shapes | {n: p.shape for n, p in selection.index.buffers.items()}
    found = {}
    for name, shape in shapes.items():
        if is_adapter and ".lora_" not in name:
            continue  # the base's, which an adapter does not hold
        own = _name_in(held, name)
        if own is None or held[own][0].shape != shape:
            what = "missing" if own is None else f"{held[own][0].shape}"
            raise UnitError(
                f"the selection {config.selection} is of another model: {name!r} is {shape} there "
                f"and {what} in {config.folder}; select on this model"
            )
        found[name] = own
    if is_adapter and not found:
        raise UnitError(
            f"the selection {config.selection} is of a whole model, and {config.folder} holds an "
            "adapter: merge it (merge_and_unload) and save that, or select with diff --adapter "
            "factors"
        )
    return found


def _name_in(held: dict[str, list[Stored]], name: str) -> str | None:
    # Heads put a prefix before the names of the model under them; PEFT before all of them. Older
    # files call a norm's weight and bias gamma and beta.
    rest = name.partition(".")[2]
    old = re.sub(r"(Norm\.)weight$", r"\1gamma", re.sub(r"(Norm\.)bias$", r"\1beta", name))
    plain = re.sub(r"(\.lora_\w+?)\.[^.]+(\.weight)?$", r"\1\2", name)
    prefixes = dict.fromkeys(own.partition(".")[0] for own in held)
    tried = (name, old, f"base_model.model.{plain}", rest, old.partition(".")[2])
    return next(
        (own for own in (*tried, *(f"{prefix}.{name}" for prefix in prefixes)) if own in held),
        None,
    )


def _edits(
    selection: Selection, names: dict[str, str], held: dict[str, list[Stored]], base: Path | None
) -> tuple[dict[str, _Edit], list[str]]:
    """Give the edit of each tensor with a selected entry, and what stays all the same."""
    bases = {} if base is None else weights_of(base)
    edits, stay = dict[str, _Edit](), list[str]()
    for name in (*selection.index.shapes, *selection.index.buffers):
        mask = selection.mask(name)
        if not bool(mask.any()):
            continue
        own = names.get(name)
        if own is None:
            stay += [] if ".base_layer." in name else [name]
            continue
        if not held[own][0].is_floating:
            raise ModelError(
                f"tensor {own!r} in {held[own][0].file} holds whole numbers, as quantised weights "
                "do: expected a model in floating point"
            )
        there = _name_in(bases, name)
        if base is not None and (there is None or bases[there][0].shape != held[own][0].shape):
            stay.append(own)
            continue
        edits[own] = _Edit(mask, None if there is None else bases[there][0])
    if not edits:
        raise UnitError(
            f"{base or 'the adapter'} holds none of the selected entries, such as those of "
            f"{stay[0]!r}: expected the model that the folder was tuned from"
        )
    edits |= {alias: edits[own] for own, alias in _aliases(edits, set(names.values()), held)}
    where = "the base" if base else "the adapter's two matrices"
    notes = (
        [f"{_some(stay)} have no counterpart in {where}: they stay as they are."] if stay else []
    )
    return edits, notes


def _aliases(
    edits: dict[str, _Edit], known: set[str], held: dict[str, list[Stored]]
) -> Iterator[tuple[str, str]]:
    """Find tied matrices that a file holds under a second name, with the same values."""
    others = [name for name in held if name not in known and len(held[name][0].shape) > 1]
    for own in edits:
        for other in others:
            one, two = held[own][0], held[other][0]
            if one.shape == two.shape and torch.equal(one.read(), two.read()):
                yield own, other


def _copy(folder: Path, listed: Listing, made: Path) -> None:
    """Copy what is listed, and of each file no more than was listed."""
    for name, size in listed.files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("rb") as given, (made / name).open("xb") as copied:
            while size and (part := given.read(min(size, _PART))):
                size -= copied.write(part)


def _check_room(config: Config, listed: Listing) -> None:
    place = config.out.resolve()
    place = next(parent for parent in place.parents if parent.is_dir())
    size, free = sum(listed.files.values()), shutil.disk_usage(place).free
    if size > free:
        raise CheckpointError(
            f"folder {config.folder} lists {size} bytes, and {place} has {free} free: expected "
            "room for a copy; choose another --out"
        )


def _passed_over(listed: Listing) -> list[str]:
    found = []
    if listed.other_forms:
        forms = _some(list(listed.other_forms))
        found.append(f"{forms} hold the model unedited: they are not copied.")
    if listed.linked:
        found.append(f"{_some(list(listed.linked))} are links to folders: they are not copied.")
    return found


def _write(
    edits: dict[str, _Edit], held: dict[str, list[Stored]], made: Path, strength: float
) -> None:
    files: dict[str, list[str]] = {}
    for name in edits:
        for stored in held[name]:
            files.setdefault(stored.file.name, []).append(name)
    for file, names in files.items():
        rewrite(made / file, names, partial(_blended, edits, strength))


def _blended(edits: dict[str, _Edit], strength: float, name: str, tuned: Tensor) -> Tensor:
    edit = edits[name]
    base = torch.zeros_like(tuned) if edit.base is None else edit.base.read()
    if strength == 0:
        value = base.to(tuned.dtype)
    else:
        exact = torch.float64 if tuned.dtype == torch.float64 else torch.float32
        value = torch.lerp(base.to(exact), tuned.to(exact), strength).to(tuned.dtype)
    chosen = value[edit.mask].float()
    if not bool(torch.isfinite(chosen).all()):
        raise ModelError(
            f"strength {strength:g} gives {name!r} values that are not finite in {tuned.dtype}: "
            "choose one nearer to 0 to 1, or sound folders"
        )
    if name.endswith("running_var") and bool((chosen < 0).any()):
        raise ModelError(
            f"strength {strength:g} makes {name!r} {float(chosen.min()):.3g}: a variance cannot be "
            "negative; choose a strength from 0 to 1"
        )
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tuned.dtype.itemsize]
    return torch.where(edit.mask, value.view(bits), tuned.view(bits)).view(tuned.dtype)


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")

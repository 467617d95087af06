"""Attacks on files of tensors: safetensors, `torch.save`, and paramattr's own."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes

from benchmarks.hostile.attack import (
    Attack,
    Change,
    cut,
    empty,
    flipped,
    folder,
    holding,
    looped,
    other_magic,
    removed,
)
from paramattr.files.reading import load_tensors, save_state_dict

KEYS = 100_000
STATE, TORCH, OLD = (
    "load_state_dict, safetensors",
    "load_state_dict, torch.save",
    "load_state_dict, old torch.save",
)


def header(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change a safetensors file's header, and leave its data."""

    def changed(path: Path) -> None:
        whole = path.read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        found = json.loads(whole[8 : 8 + length])
        change(found)
        text = json.dumps(found).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])

    return changed


def first_entry(**values: Any) -> Change:
    """Change the first tensor's entry in a header."""
    return header(lambda h: next(v for k, v in h.items() if k != "__metadata__").update(values))


def length(claimed: int) -> Change:
    """Claim another length of the header."""
    return lambda path: path.write_bytes(struct.pack("<Q", claimed) + path.read_bytes()[8:])


def bare_header(text: bytes) -> Change:
    """Write a header alone."""
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text)


def with_nan(path: Path) -> None:
    """Put a NaN among the weights."""
    own, found = load_tensors(path)
    next(iter(own.values())).view(-1)[7] = float("nan")
    save_state_dict(path, own, found)


def foreign(path: Path) -> None:
    """Flip a bit of the data of a file that another writer made, which keeps no checksum."""
    path.write_bytes(save_bytes(load_bytes(path.read_bytes())))
    flipped(0.9)(path)


def many_keys(path: Path) -> None:
    """Write 10^5 tensors."""
    save_state_dict(path, {f"weight{n}": torch.zeros(1) for n in range(KEYS)})


def one_tensor_as_large(path: Path) -> None:
    """Write one tensor, in a file about as long as that of 10^5."""
    save_state_dict(path, {"weight": torch.zeros(KEYS * 20)})


def long_name(path: Path) -> None:
    """Write one tensor whose name has 10^7 letters."""
    save_state_dict(path, {"n" * 10**7: torch.zeros(1)})


class RunsCode:
    """Would end the process, were the pickle that it is in loaded without care."""

    def __reduce__(self) -> Any:
        return (os._exit, (7,))


def code(path: Path) -> None:
    """Pickle a call into the file."""
    torch.save({"weight": RunsCode()}, path)


def bare_code(path: Path) -> None:
    """Write a bare pickle of a call."""
    path.write_bytes(pickle.dumps(RunsCode(), protocol=2))


def zip_bomb(path: Path) -> None:
    """Compress the records of the file, and 2 GiB of zeros into one more."""
    bomb = path.with_suffix(".bomb")
    with (
        zipfile.ZipFile(path) as given,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for entry in given.infolist():
            made.writestr(entry.filename, given.read(entry))
        name = next(n for n in given.namelist() if n.endswith("data.pkl"))
        with made.open(name.replace("data.pkl", "data/9"), "w", force_zip64=True) as record:
            for _ in range(128):
                record.write(bytes(1 << 24))
    bomb.replace(path)


def stretched(path: Path) -> None:
    """Save one number, stretched to 10^12 entries."""
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, path)


def sparse(path: Path) -> None:
    """Save a sparse tensor of 10^18 entries."""
    torch.save({"weight": torch.sparse_coo_tensor(size=(10**9, 10**9))}, path)


def on_meta(path: Path) -> None:
    """Save a tensor without data."""
    torch.save({"weight": torch.empty(10**6, 10**6, device="meta")}, path)


def nested(path: Path) -> None:
    """Nest dicts 10,000 deep."""
    text = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 10_000 + b"}" + b"s" * 10_000 + b"."
    path.write_bytes(text)


DEEP = b'{"a":' * 50_000

OF_ANY_FILE: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "other magic": other_magic,
    "a link to itself": looped,
    "a folder": folder,
    "missing": removed,
}
OF_SAFETENSORS: dict[str, Change] = {
    **OF_ANY_FILE,
    "a bit of the header's length flipped": flipped(0),
    "a bit of the data flipped": flipped(0.9),
    "header claims 2^40 bytes": length(2**40),
    "header claims 2^63 bytes": length(2**63),
    "header claims 99 MB": length(99_000_000),
    "header is no JSON": bare_header(b"{" * 64),
    "header is a list": bare_header(b"[1, 2]"),
    "header nested 50,000 deep": bare_header(DEEP),
    "offsets beyond the file": first_entry(data_offsets=[0, 10**12]),
    "negative offsets": first_entry(data_offsets=[-4, 4]),
    "shape that overflows": first_entry(shape=[2**40, 2**40]),
    "shape of 10^12 entries": first_entry(shape=[10**6, 10**6]),
    "unknown dtype": first_entry(dtype="F99"),
    "no text": holding(b"\xff\xfe" * 500),
}
OF_TORCH: dict[str, Change] = {
    **OF_ANY_FILE,
    "pickled code": code,
    "a bare pickle of code": bare_code,
    "nested 10,000 deep": nested,
    "one number stretched to 10^12": stretched,
    "a sparse tensor of 10^18": sparse,
    "a tensor without data": on_meta,
    "a list": lambda path: torch.save([torch.ones(1)], path),
}


def every(call: str, file: str, changes: dict[str, Change]) -> list[Attack]:
    """Make an attack of each change."""
    return [Attack(call, file, name, change) for name, change in changes.items()]


ATTACKS = [
    *every(STATE, "state.safetensors", OF_SAFETENSORS),
    Attack(STATE, "state.safetensors", "10^5 keys", many_keys, one_tensor_as_large, "read"),
    Attack(STATE, "state.safetensors", "a name of 10^7 letters", long_name, outcome="read"),
    Attack(STATE, "state.safetensors", "a bit of foreign data flipped", foreign, outcome="read"),
    *every(TORCH, "state.pth", OF_TORCH),
    Attack(TORCH, "state.pth", "2 GiB of zeros, compressed", zip_bomb),
    *every(OLD, "legacy.pth", OF_TORCH),
    Attack("attribute", "base.safetensors", "NaN weights", with_nan, says="not finite"),
    Attack("attribute", "base.safetensors", "10^5 keys", many_keys, says="missing in the baseline"),
    Attack("paramattr info, state", "state.safetensors", "cut at two thirds", cut),
    Attack(
        "paramattr info, state",
        "state.safetensors",
        "10^5 keys",
        many_keys,
        one_tensor_as_large,
        "read",
    ),
]

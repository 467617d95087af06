"""Attacks by what lies in a folder: links, loops, devices, archives, names that steer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.hostile.attack import Attack, Change, cut
from benchmarks.hostile.tensor_files import code, stretched, zip_bomb
from paramattr.files.reading import load_state_dict, save_state_dict

STEERS = "\x1b]0;title\x07\x1b[2J\x1b[31m\nparamattr: all is well\x9b31m"
"""A name that sets a terminal's title, clears it, turns red and forges a line."""
APPLY, BINARY, HUB = "paramattr apply", "paramattr apply, torch.save", "paramattr apply, hub"
INFO, STATE = "paramattr info, folder", "paramattr info, torch.save"
SNAPSHOT = "hub/models--me--tuned/snapshots/main"
READERS = (APPLY, INFO, "read_pair")


def link(target: str, secret: str | None = None) -> Change:
    """Put a link in its place, and perhaps what it leads to beside the folder."""

    def change(path: Path) -> None:
        if secret is not None:
            kept = path.parent / target
            kept.write_text(secret)
            kept.chmod(0o600)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def moved_out(path: Path) -> None:
    """Move the file out of the folder, and put a link to it in its place."""
    path.rename(path.parent.parent / path.name)
    path.symlink_to(f"../{path.name}")


def pipe(path: Path) -> None:
    """Make a pipe that nobody writes to."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def bound(path: Path) -> None:
    """Make a socket."""
    before = Path.cwd()
    os.chdir(path.parent)  # its path may have a hundred letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def loops(path: Path) -> None:
    """Link the folder into itself, twice: twenty levels down it has a million names."""
    for name in ("a", "b"):
        (path.parent / name).symlink_to(".")


def sparse_file(path: Path) -> None:
    """Make a file that says it has 8 TiB."""
    with path.open("wb") as file:
        file.truncate(2**43)


def planted(path: Path) -> None:
    """Put a link to another file where a writer might begin."""
    victim = path.parent / "victim"
    victim.write_text("precious")
    path.symlink_to("victim")


def odd_names(path: Path) -> None:
    """Give files and links of the folder names that steer a terminal."""
    for name in (f"{STEERS[:9]}.onnx", "b\x1b[2J.onnx"):
        (path.parent / name).write_text("")
    (path.parent / "c\x1b[31m").symlink_to(".")


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Change the tensors of a file."""

    def changed(path: Path) -> None:
        state = load_state_dict(path)
        change(state)
        if path.suffix == ".safetensors":
            save_state_dict(path, state)
        else:
            torch.save(state, path)

    return changed


def _steers(state: dict[str, torch.Tensor]) -> None:
    first, *others = state.items()
    state.clear()
    state.update({STEERS: first[1], **dict(others)})


def two_lists(path: Path) -> None:
    """Compress the records, and list them once more as if they were not, for readers by size."""
    plain = path.with_suffix(".plain")
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(plain, "w") as made:
        for record in given.infolist():
            made.writestr(record.filename, given.read(record))
    shown = plain.read_bytes()
    deflated(path)
    whole = path.read_bytes()
    size, place = (int.from_bytes(whole[n : n + 4], "little") for n in (-10, -6))
    path.write_bytes(whole[: place + size] + shown[-22 - size : -22] + whole[-22:])
    plain.unlink()


def deflated(path: Path) -> None:
    """Compress the records of an archive."""
    whole = path.with_suffix(".whole")
    path.replace(whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for record in given.infolist():
            made.writestr(record.filename, given.read(record))
    whole.unlink()


def steering_conditions(path: Path) -> None:
    """Call the conditions by names that steer."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = (STEERS, "b\x1b[2J")
    path.write_text(
        "".join(json.dumps({**row, "condition": names[n % 2]}) + "\n" for n, row in enumerate(rows))
    )


def plain_conditions(path: Path) -> None:
    """Give the lines two conditions."""
    steering_conditions(path)
    text = path.read_text()
    for name, plain in ((STEERS, "one"), ("b\x1b[2J", "two")):
        text = text.replace(json.dumps(name), json.dumps(plain))
    path.write_text(text)


def steering_rows(path: Path) -> None:
    """Write keys that steer, and half a surrogate."""
    path.write_text(json.dumps({STEERS: 1, "\ud800": [STEERS]}))


def blobs_elsewhere(path: Path) -> None:
    """Let the cache's blobs be a link to another folder."""
    blobs = path.parents[2] / "blobs"
    shutil.move(blobs, path.parents[3] / "elsewhere")
    blobs.symlink_to("../elsewhere")


LINKS: dict[str, tuple[str, Change]] = {
    "a link to a secret beside it": ("README.md", link("../secret", "the owner's alone")),
    "a link to a file of the system": ("README.md", link("/etc/passwd")),
    "a link to another folder": ("docs", link("../base")),
    "a link to the root": ("docs", link("/")),
    "a link to /dev/zero": ("notes.txt", link("/dev/zero")),
    "a link to nothing": ("notes.txt", link("gone")),
    "a link to itself, unread": ("notes.txt", link("notes.txt")),
    "weights are a link to /dev/zero": ("model.safetensors", link("/dev/zero")),
    "weights are a link out": ("model.safetensors", moved_out),
    "settings are a link out": ("config.json", moved_out),
    "a tokenizer that is a link to /dev/zero": ("tokenizer.json", link("/dev/zero")),
    "a pipe": ("vocab.txt", pipe),
    "a socket": ("vocab.txt", bound),
}
ARCHIVES: dict[str, Change] = {
    "compressed": deflated,
    "2 GiB of zeros, compressed": zip_bomb,
    "compressed, with a second list of records": two_lists,
    "cut at two thirds": cut,
    "pickled code": code,
    "one number stretched to 10^12": stretched,
}
ATTACKS = [
    *(
        Attack(call, f"tuned/{file}", name, change)
        for call in READERS
        for name, (file, change) in LINKS.items()
    ),
    *(Attack(BINARY, "binary/pytorch_model.bin", n, change) for n, change in ARCHIVES.items()),
    *(
        Attack("read_pair, torch.save", "binary/pytorch_model.bin", n, change)
        for n, change in ARCHIVES.items()
        if "list" in n or "compressed" in n
    ),
    *(Attack(STATE, "state.pth", n, change) for n, change in ARCHIVES.items()),
    *(Attack(call, "tuned/a", "two links to itself", loops, outcome="read") for call in READERS),
    Attack(APPLY, "tuned/notes.txt", "a file that says it has 8 TiB", sparse_file, says="tuned"),
    Attack(APPLY, ".out.partial", "a planted link", planted, outcome="read"),
    Attack("Scores.save", ".saved.safetensors.partial", "a planted link", planted, outcome="read"),
    Attack(
        HUB,
        f"{SNAPSHOT}/config.json",
        "as it is",
        lambda path: None,
        outcome="read",
    ),
    Attack(
        HUB,
        f"{SNAPSHOT}/config.json",
        "blobs that are a link out",
        blobs_elsewhere,
        says="link",
    ),
    Attack(HUB, f"{SNAPSHOT}/README.md", "a link out", link("/etc/passwd")),
    Attack(APPLY, "tuned/x", "names that steer a terminal", odd_names, outcome="read"),
    Attack(
        "paramattr info, state",
        "state.safetensors",
        "names that steer a terminal",
        rewritten(_steers),
        outcome="read",
    ),
    Attack(STATE, "state.pth", "names that steer a terminal", rewritten(_steers), outcome="read"),
    Attack(
        "paramattr info, rows",
        "rows.json",
        "names that steer a terminal",
        steering_rows,
        outcome="read",
    ),
    Attack("paramattr info, rows", "rows.json", "a pipe", pipe),
    Attack("paramattr info, rows", "rows.json", "a file that says it has 8 TiB", sparse_file),
    Attack(
        "paramattr diff",
        "texts.jsonl",
        "names that steer a terminal",
        steering_conditions,
        plain_conditions,
        "read",
    ),
]

"""What a folder holds of its own: nothing outside it is read, and no device, pipe or socket."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from paramattr.errors import CheckpointError

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
"""Names of files that transformers and PEFT read weights from."""
OTHER_FORMS = (
    ".git",
    ".cache",
    "checkpoint-*",
    "consolidated*",
    "openvino*",
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.gguf", "*.ot", "*.tflite"),
)
"""What holds the model in a form that is neither read nor edited, or no part of it."""


@dataclass(frozen=True)
class Listing:
    """What lies in a folder and below it.

    Attributes:
        files: names, from the folder on, to the bytes of each file.
        other_forms: names of what is passed over, such as `tf_model.h5`.
        linked: names of links to folders inside the folder, which would be met twice, or for ever.
    """

    files: dict[str, int]
    other_forms: tuple[str, ...]
    linked: tuple[str, ...]


def listing(folder: Path) -> Listing:
    """List a folder; a link to a file counts as that file, if it lies in the folder too.

    So does one that leads from a snapshot in the cache of the Hugging Face hub to the blobs beside
    the snapshots, which is how every model of the hub lies there.

    Raises:
        CheckpointError: naming what leads out of the folder or is no file; or if the folder cannot
            be listed.
    """
    files, other_forms, linked = dict[str, int](), list[str](), list[str]()
    own = Path(os.path.realpath(folder))
    try:
        for place, folders, names in os.walk(folder, onerror=_raised):
            for name in sorted([*folders, *names]):
                path = Path(place, name)
                shown = str(path.relative_to(folder))
                if any(fnmatch(name, form) for form in OTHER_FORMS):
                    other_forms += [] if name.startswith(".") else [name]
                elif path.is_symlink() and _target(path, folder, own).is_dir():
                    linked.append(shown)
                elif not path.is_dir():
                    files[shown] = _size(path)
            folders[:] = [
                name for name in sorted(folders) if not any(fnmatch(name, f) for f in OTHER_FORMS)
            ]
    except OSError as error:
        raise CheckpointError(
            f"folder {folder} cannot be listed ({error}): expected a folder that you can read"
        ) from None
    return Listing(files, tuple(sorted(other_forms)), tuple(sorted(linked)))


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold its model's weights.

    Raises:
        CheckpointError: as `listing` does.
    """
    return [
        folder / name
        for name in sorted(listing(folder).files)
        if "/" not in name and any(fnmatch(name, own) for own in WEIGHTS)
    ]


def _target(link: Path, folder: Path, own: Path) -> Path:
    """Follow a link to where it ends, inside the folder."""
    try:
        target = Path(os.path.realpath(link, strict=True))
        places = [own]
        if own.parent.name == "snapshots" and own.parents[1].name.startswith("models--"):
            places.append(own.parents[1] / "blobs")
        if any(place in (target, *target.parents) for place in places):
            return target
        where = f"leads to {target}"
    except OSError:  # it is one of a circle of links, too
        where = f"leads to {link.readlink()}, which is not there"
    raise CheckpointError(
        f"{str(link.relative_to(folder))!r} in folder {folder} is a link that {where}: expected a "
        "file, or a link to one inside the folder or from a snapshot of the hub's cache to its "
        "blobs; if you trust it, make a copy without links (cp -rL) and give that"
    )


def _size(path: Path) -> int:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise CheckpointError(
            f"{path} is neither a file nor a folder, but a device, a pipe or a socket: expected "
            "files alone; remove it from the folder"
        )
    return about.st_size


def _raised(error: OSError) -> None:
    raise error

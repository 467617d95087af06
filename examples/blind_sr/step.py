"""A command of the study that is run once, and what tells its run from any other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from paramattr.errors import CheckpointError, DataError


@dataclass(frozen=True)
class Step:
    """One command of the study.

    Attributes:
        name: of its folder, `NETWORK-COMMAND`.
        command: a function of the command line.
        options: what it is called with, beside its folder.
        result: the file with its rows.
        figures: name of a picture to its file.
        contents: option to the digest of the files that it names, of `digest`.
        after: name of the step whose results it uses.
    """

    name: str
    command: Callable[..., None]
    options: Mapping[str, Any]
    result: str
    figures: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    after: str = ""

    @property
    def stamp(self) -> dict[str, Any]:
        """What tells its run from any other, as `options.json` of its folder holds it."""
        options = {key: _written(value) for key, value in self.options.items()}
        return {**options, "contents": dict(self.contents)}

    def finished(self, out: Path) -> bool:
        """Tell whether the command was run to its end with these options on these files.

        Raises:
            CheckpointError: if the folder holds anything else; nothing is removed.
        """
        folder = out / self.name
        if not folder.exists() or not any(folder.iterdir()):
            return False
        made, asked = _told(_read(folder / "options.json")), _told(self.stamp)
        other = [key for key in {**asked, **made} if made.get(key, ...) != asked.get(key, ...)]
        if other:
            held = f"a run that differs in {', '.join(other)}" if made else "no run of the study"
            raise CheckpointError(
                f"folder {folder} holds {held}: expected one of {self.name} with the options and "
                "files given; give another folder (--out), or remove that one"
            )
        return (folder / "finished").exists()

    def run(self, out: Path) -> dict[str, Any]:
        """Run the command, unless it is finished, and read its result.

        Raises:
            CheckpointError: as `finished`.
        """
        folder = out / self.name
        if not self.finished(out):
            folder.mkdir(parents=True, exist_ok=True)
            # Beside the folder, which a kill leaves empty or with a whole stamp.
            partial = out / f"{self.name}.partial"
            partial.write_text(json.dumps(self.stamp, indent=1))
            partial.replace(folder / "options.json")
            self.command(**self.options, out=folder)
            (folder / "finished").touch()
        found: dict[str, Any] = json.loads((folder / self.result).read_text())
        return found


def digest(files: Sequence[Path]) -> str:
    """Give the SHA-256 of the names and bytes of files.

    Raises:
        DataError: naming the file that cannot be read.
    """
    found = sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(
                f"file {file} cannot be read ({error.strerror}): remove it or make it readable"
            ) from None
        found.update(os.fsencode(file.name) + b"\0" + sha256(content).digest())
    return found.hexdigest()


def _written(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return value


def _read(stamp: Path) -> dict[str, Any]:
    try:
        found = json.loads(stamp.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _told(stamp: Mapping[str, Any]) -> dict[str, Any]:
    contents = {f"contents of {key}": value for key, value in stamp.get("contents", {}).items()}
    return {**{key: value for key, value in stamp.items() if key != "contents"}, **contents}

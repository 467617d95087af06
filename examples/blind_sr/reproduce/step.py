"""An experiment that is run once, and what tells its run from any other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from blind_sr.run import read_stamp, write_json
from paramattr.errors import CheckpointError, DataError
from paramattr.files.resume import check_stamp


@dataclass(frozen=True)
class Step:
    """One experiment of the study.

    Attributes:
        name: of its folder, `NETWORK-EXPERIMENT`.
        experiment: a function of the config that runs it, writes its files into `config.out`, and
            gives its numbers.
        config: what is run; its `out` is set when it is.
        result: the file with its numbers.
        figures: name of a picture to its file.
        contents: field of the config to the digest of the files that it names, of `digest`.
        after: name of the step whose files it uses.
    """

    name: str
    experiment: Callable[[Any], dict[str, Any]]
    config: Any
    result: str
    figures: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    after: str = ""

    @property
    def network(self) -> str:
        """Whose it is."""
        return str(getattr(self.config, "setting", self.config).network)

    @property
    def stamp(self) -> dict[str, Any]:
        """What tells its run from any other, as `options.json` of its folder holds it."""
        fields = asdict(self.config)
        fields |= fields.pop("setting", {})
        fields.pop("out")
        options = {key: _written(value) for key, value in fields.items()}
        return {**options, **{f"contents of {key}": own for key, own in self.contents.items()}}

    def finished(self, out: Path) -> bool:
        """Tell whether the experiment was run to its end with this config on these files.

        Raises:
            CheckpointError: if the folder holds anything else; nothing is removed.
        """
        folder = out / self.name
        if not folder.exists() or not any(folder.iterdir()):
            return False
        made, way_out = read_stamp(folder / "options.json"), "give another folder (--out), or "
        if not made:
            raise CheckpointError(
                f"folder {folder} holds no run of the study: expected one of {self.name}; "
                f"{way_out}remove that one"
            )
        check_stamp(made, self.stamp, f"folder {folder}", f"{way_out}remove that one")
        return (folder / "finished").exists()

    def run(self, out: Path) -> dict[str, Any]:
        """Run the experiment and give its numbers; those of a finished one are read.

        Raises:
            CheckpointError: as `finished`.
        """
        folder = out / self.name
        if self.finished(out):
            found: dict[str, Any] = json.loads((folder / self.result).read_text())
            return found
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "options.json", self.stamp)
        numbers = self.experiment(replace(self.config, out=folder))
        (folder / "finished").touch()
        return numbers


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
    return list(value) if isinstance(value, tuple) else value

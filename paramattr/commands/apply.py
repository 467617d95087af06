"""`paramattr apply`: undo, or weaken, a part of a fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def apply(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", show_default=False, help="Folder of the tuned model or adapter."
        ),
    ],
    selection: Annotated[
        Path, typer.Option(show_default=False, help="File that Selection.save or diff wrote.")
    ],
    strength: Annotated[
        float, typer.Option(help="0 is the base's values, 1 the tuned model's.")
    ] = 0.0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="New folder of the edited model; FOLDER-edited by default."),
    ] = None,
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the base; what diff compared with, where it is known."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a copy of a model's folder in which the selected units are blended with the base's.

    All that is not selected stays as it is, bit for bit. Nothing is downloaded, and no code runs.

    Example: paramattr apply tuned --selection found/selection-neuron-all.safetensors --out undone
    """
    from paramattr.apply import Config, Result, run
    from paramattr.errors import printable

    out = out or folder.resolve().with_name(f"{folder.resolve().name}-edited")
    found: Result = run(Config(folder, selection, out, strength, base))
    if as_json:
        print(json.dumps(_rows(found), indent=1))
        return
    said = (
        f"{found.out}: {found.entries:,} of {found.all_entries:,} entries in {found.tensors} "
        f"tensors ({found.units} of {found.all_units} units) are at strength {found.strength:g} "
        f"between {found.base or 'zero'} (0) and {folder} (1). All others are {folder}'s, bit for "
        "bit."
    )
    for line in (said, *(f"Note: {note}" for note in found.notes)):
        print(printable(line))


def _rows(found: Any) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(found).items()
    }

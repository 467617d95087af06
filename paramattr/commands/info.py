"""`paramattr info`: what does this file hold?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", show_default=False, help="A file of paramattr's, or a checkpoint."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file holds: scores, a selection, a run's progress, a state dict, a model.

    Example: paramattr info found/scores-neuron-all.safetensors
    """
    from paramattr.info import describe

    found = describe(file)
    print(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))


def lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """Write nested entries, one per line."""
    from paramattr.errors import printable

    said = []
    for key, value in found.items():
        label = f"{indent}{printable(key)}"
        if isinstance(value, dict):
            said += [f"{label}:", *lines(value, f"{indent}  ")]
        elif isinstance(value, list):
            said.append(f"{label}: {', '.join(map(printable, value)) or '()'}")
        else:
            said.append(f"{label}: {'none' if value is None else printable(value)}")
    return said

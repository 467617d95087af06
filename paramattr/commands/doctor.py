"""`paramattr doctor`: what does this installation have?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from paramattr.commands.info import lines


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List versions, devices, extras and studies; put it into a report of a mistake."""
    from paramattr.doctor import examine, missing

    found = examine()
    print(json.dumps(found, indent=1) if as_json else "\n".join([*lines(found), *missing(found)]))

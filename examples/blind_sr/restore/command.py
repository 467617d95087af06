"""`paramattr blindsr restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.options import (
    Filters,
    FiltersOption,
    JsonOption,
    PctOption,
    SelectionOption,
    given,
    with_setting,
)
from blind_sr.setting import Setting


@with_setting()
def restore(
    setting: Setting,
    image: Annotated[Path, typer.Argument(metavar="FILE", help="A low-resolution image.")],
    strength: Annotated[
        float, typer.Option(help="0: the baseline's filters, 1: the target's; beyond is allowed.")
    ],
    filters: FiltersOption = Filters.blur,
    pct: PctOption = 1.0,
    selection: SelectionOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write.", show_default="NAME_FILTERS_STRENGTH.png"),
    ] = None,
    output: Annotated[Path | None, typer.Option(hidden=True)] = None,  # what --out was called
    json: JsonOption = False,
) -> None:
    """Restore an image, with the filters that deblur or denoise at a strength of your choice.

    The filters become strength x target + (1 - strength) x baseline. They are read from a file, or
    found on photographs first.

    Example, about 2 minutes; with --selection some seconds:
    paramattr blindsr restore photo.png --filters noise --strength 0.5
    """
    options = {**given(locals(), "json", "out", "output"), "output": out or output}
    from blind_sr.console import show
    from blind_sr.restore.experiment import RestoreConfig, run

    result = run(RestoreConfig(**options))
    show(result.content, [], json=json)
    if not json:
        typer.echo(f"{result.output}: {result.width}x{result.height} pixels")

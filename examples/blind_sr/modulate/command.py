"""`paramattr blindsr modulate`."""

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
    out_option,
    with_setting,
)
from blind_sr.setting import Setting
from paramattr.errors import ParamattrError


@with_setting()
def modulate(
    setting: Setting,
    filters: FiltersOption = Filters.blur,
    pct: PctOption = 1.0,
    selection: SelectionOption = None,
    image: Annotated[Path | None, typer.Option(hidden=True)] = None,
    strength: Annotated[float | None, typer.Option(hidden=True)] = None,
    output: Annotated[Path | None, typer.Option(hidden=True)] = None,
    out: Annotated[
        Path, out_option("Folder for the figure, the rows as CSV and JSON, and the filters.")
    ] = Path("modulate-output"),
    json: JsonOption = False,
) -> None:
    """Restore photographs more or less strongly, and measure the quality at 16 strengths.

    The filters found become strength x target + (1 - strength) x baseline, with no parameter more
    than the two networks have. PSNR is measured on blurry and noisy inputs at strengths from 0 to
    1.5.

    Example, about 2 minutes: paramattr blindsr modulate --filters noise --out modulate-output
    """
    options = given(locals(), "json", "image", "strength", "output")
    from blind_sr.console import note, show
    from blind_sr.modulate.experiment import ModulateConfig, run
    from blind_sr.modulate.report import modulate_table, save

    if (image, strength, output) != (None, None, None):
        options.pop("out")
        _restore(image, strength, {**options, "output": output, "json": json})
        return
    result = run(ModulateConfig(**options))
    show(result.content, [modulate_table(result.rows)], json=json)
    note(f"figure: {save(out, result)}", json=json)


def _restore(image: Path | None, strength: float | None, options: dict[str, object]) -> None:
    """Do what `restore` does, under its old name."""
    from blind_sr.console import renamed
    from blind_sr.restore.command import restore

    if image is None:
        name = "--output" if strength is None else "--strength"
        raise ParamattrError(
            f"{name} is given without an image: expected 'restore FILE' with it; without one, 16 "
            "strengths are compared on photographs"
        )
    if strength is None:
        raise ParamattrError(
            "strength is None: expected a number with an image, such as --strength 0.5"
        )
    restore(image=image, strength=strength, **options)
    renamed("modulate --image FILE", "paramattr blindsr restore FILE")

"""`paramattr blindsr mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.labels import BASIC
from blind_sr.options import JsonOption, MethodsOption, out_option, with_setting
from blind_sr.setting import Setting

METHODS = ", ".join(BASIC)


@with_setting()
def mask(
    setting: Setting,
    pct: Annotated[
        list[float] | None,
        typer.Option(help="Share of the filters to mask, in percent; may be given several times."),
    ] = None,
    methods: MethodsOption = METHODS,
    out: Annotated[
        Path | None, out_option("Folder for scores, selections, restored images and the figure.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the filters that deblur and those that denoise, mask them, measure what is lost.

    The measure is that of Sec. 5.2.1 of the paper: the mean squared difference between the
    gradient maps of the grey outputs with and without the mask, times 1000. The blue channel's
    stands beside it, which is what the authors' script measures.

    Example, about 1 minute: paramattr blindsr mask --pct 1 --out mask-output
    """
    from blind_sr.console import note, show
    from blind_sr.mask.experiment import MaskConfig, run
    from blind_sr.mask.report import save, tables
    from paramattr.runtime.torchrun import is_first

    percents = tuple(dict.fromkeys(pct or [1.0]))
    result = run(MaskConfig(setting, methods, percents, out))
    # Printed first: what is computed is not lost where it cannot be saved.
    show(result.content, tables(result), json=json)
    if out is not None and is_first():
        note(f"figure: {save(out, result)}", json=json)

"""`paramattr blindsr compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr import labels
from blind_sr.options import JsonOption, MethodsOption, given, out_option, with_setting
from blind_sr.setting import Setting


@with_setting(crop=40)
def compare(
    setting: Setting,
    methods: MethodsOption = "all",
    units: Annotated[
        str,
        typer.Option(
            help=f"{' or '.join(labels.UNITS)}; with output_channel Captum's methods take part "
            f"too: {', '.join(labels.CAPTUM_LABELS)}."
        ),
    ] = "kernel",
    edit: Annotated[
        str,
        typer.Option(help="masking from the target's side, or insertion from the baseline's."),
    ] = "masking",
    points: Annotated[
        int, typer.Option(min=3, help="Shares of the filters on a curve, from 0 to 100%.")
    ] = 21,
    draws: Annotated[int, typer.Option(min=1, help="Random rankings that are averaged.")] = 1,
    out: Annotated[
        Path, out_option("Folder for the figure, the rows as CSV and JSON, and the scores.")
    ] = Path("compare-output"),
    json: JsonOption = False,
) -> None:
    """Compare every method: Tab. 2 of the paper, and the curves of Fig. 3 from 0 to 100%.

    Every method that looks at data is contrasted; NAME-no-contrast is the same method without
    that. Intervals are 95% bootstrap intervals over the photographs. A run that is repeated with
    the same options after an error or a kill resumes.

    Example, about 2 minutes; with all methods about 8:
    paramattr blindsr compare --methods faig,fisher,random
    """
    options = given(locals(), "json")
    from blind_sr.compare.experiment import CompareConfig, run
    from blind_sr.compare.report import comparison_tables, save
    from blind_sr.console import note, show
    from paramattr.runtime.torchrun import is_first

    result = run(CompareConfig(**options))
    show(result.content, comparison_tables(result.content), json=json)
    if units == "kernel" and methods == "all":
        note("Captum's methods have no single filters: --units output_channel.", json=json)
    if is_first():
        note(f"figure: {save(out, result)}", json=json)

"""`paramattr blindsr severity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.options import (
    BUNDLED,
    JsonOption,
    PctOption,
    TargetOption,
    folder_option,
    given,
    out_option,
    with_setting,
)
from blind_sr.setting import Setting


@with_setting("images", steps=4, crop=32)
def severity(
    setting: Setting,
    kinds: Annotated[
        str, typer.Option(help="Degradations, separated by commas: blur, noise, jpeg.")
    ] = "blur, noise",
    target: TargetOption = None,
    find: Annotated[
        Path | None, folder_option("Folder of photographs to find the filters on.", BUNDLED)
    ] = None,
    fit: Annotated[
        Path | None, folder_option("Folder of photographs to fit the regressions on.", BUNDLED)
    ] = None,
    test: Annotated[
        Path | None, folder_option("Folder of photographs to predict on.", BUNDLED)
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Photographs of --fit and --test, the first; 0 for all.")
    ] = 0,
    draws: Annotated[
        int, typer.Option(min=1, help="Inputs per photograph, each of its own severity.")
    ] = 4,
    pct: PctOption = 1.0,
    levels: Annotated[
        int, typer.Option(min=0, help="Severities of the response curves; 0 for none.")
    ] = 5,
    label_steps: Annotated[
        int, typer.Option(min=1, help="Steps of the rival network that is trained on labels.")
    ] = 1000,
    out: Annotated[
        Path, out_option("Folder for figures, predictions, responses and regressor.")
    ] = Path("severity-output"),
    json: JsonOption = False,
) -> None:
    """Predict how severe blur and noise are, from the filters that serve each input.

    Each input has a severity of its own, weaker or stronger than the one that was trained. The
    mean absolute error stands beside that of the mean severity and of a small network trained on
    labels. Overlap scores beside PSNR show where the network stops restoring.

    Example, about 4 minutes: paramattr blindsr severity --out severity-output
    """
    options = given(locals(), "json", "kinds")
    from blind_sr.console import note, show
    from blind_sr.severity.experiment import SeverityConfig, run
    from blind_sr.severity.report import save, severity_tables

    names = tuple(kind.strip() for kind in kinds.split(","))
    result = run(SeverityConfig(**options, kinds=names))
    show(result.content, severity_tables(result.content), json=json)
    for figure in save(out, result):
        note(f"figure: {figure}", json=json)

"""`paramattr blindsr report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.labels import BASIC
from blind_sr.options import JsonOption, MethodsOption, PctOption, with_setting
from blind_sr.setting import Setting

METHODS = ", ".join(BASIC)


@with_setting()
def report(
    setting: Setting,
    methods: MethodsOption = METHODS,
    pct: PctOption = 1.0,
    out: Annotated[Path, typer.Option(help="The HTML file.", metavar="FILE")] = Path("report.html"),
    json: JsonOption = False,
) -> None:
    """Write one HTML file that shows the study: summary, curves, filters, images, strengths.

    Everything is in the file, and it asks nothing of the network: open it in a browser, send it to
    a colleague.

    Example, about 3 minutes: paramattr blindsr report --out report.html
    """
    from blind_sr.console import note, show
    from blind_sr.report.experiment import ReportConfig, run
    from blind_sr.report.report import save
    from paramattr.report import check_file

    check_file(out)
    result = run(ReportConfig(setting, methods, pct))
    file = save(out, result)
    show(result.content, [], json=json)
    note(f"report: {file}, {file.stat().st_size / 1e6:.1f} MB", json=json)

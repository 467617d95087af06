"""`paramattr blindsr conditions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.options import (
    JsonOption,
    TargetOption,
    folder_option,
    given,
    out_option,
    with_setting,
)
from blind_sr.setting import Setting

NEITHER = "not recognised"


@with_setting(steps=4)
def conditions(
    setting: Setting,
    conditions: Annotated[
        str, typer.Option(help="Degradations, separated by commas: blur, noise, jpeg.")
    ] = "blur, noise",
    target: TargetOption = None,
    units: Annotated[
        str,
        typer.Option(
            help="Units, separated by commas: kernel, output_channel, attention_head, neuron."
        ),
    ] = "kernel",
    pct: Annotated[
        list[float] | None,
        typer.Option(help="Share of the units to mask, in percent; may be given several times."),
    ] = None,
    fit: Annotated[
        Path | None, folder_option("Photographs for fitting the recognition thresholds.", NEITHER)
    ] = None,
    test: Annotated[
        Path | None, folder_option("Folder to recognise degradations on.", NEITHER)
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Photographs of --fit and --test, the first; 0 for all.")
    ] = 0,
    out: Annotated[Path, out_option("Folder for the figure and the result.")] = Path(
        "conditions-output"
    ),
    json: JsonOption = False,
) -> None:
    """Find the units of each of several degradations against the rest, and mask them.

    Shown is what each mask moves, and what share of what fine-tuning gained it loses, on the input
    of every degradation. With --fit and --test the degradations are recognised, too.

    Example, about 2 minutes: paramattr blindsr conditions --pct 1 --out conditions-output
    """
    options = given(locals(), "json", "conditions", "units", "pct")
    from blind_sr.conditions.experiment import ConditionsConfig, run
    from blind_sr.conditions.report import conditions_tables, save
    from blind_sr.console import note, show

    options |= {"conditions": _names(conditions), "units": _names(units)}
    result = run(ConditionsConfig(**options, pct=tuple(dict.fromkeys(pct or [1.0]))))
    show(result.content, conditions_tables(result.content), json=json)
    note(f"figure: {save(out, result)}", json=json)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(","))

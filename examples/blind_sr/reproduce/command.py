"""`paramattr blindsr reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blind_sr.options import (
    BUNDLED,
    DeviceOption,
    Dtype,
    DtypeOption,
    WeightsOption,
    folder_option,
    given,
    out_option,
)

SIZES = "crop predict_crop methods points retrain_iterations train_iterations batch_size seeds"


def _size(what: str, default: str, least: int | None = 1) -> Any:
    return typer.Option(min=least, help=what, show_default=default)


def reproduce(
    quick: Annotated[
        bool, typer.Option("--quick", help="Everything in small, in minutes; for a look.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Everything; hours without a GPU.")] = False,
    images: Annotated[
        Path | None, folder_option("Where filters are found and masked (Set14).", BUNDLED)
    ] = None,
    train: Annotated[Path | None, folder_option("Training photographs (DIV2K).", BUNDLED)] = None,
    fit: Annotated[
        Path | None, folder_option("Where thresholds are fitted (BSD100).", BUNDLED)
    ] = None,
    test: Annotated[
        Path | None, folder_option("Where degradations are predicted (Urban100).", BUNDLED)
    ] = None,
    crop: Annotated[
        int | None,
        _size(
            "Middle of the low-resolution photographs, pixels per side; 0 for all.",
            "32, or 100 with --full",
            least=0,
        ),
    ] = None,
    predict_crop: Annotated[
        int | None, _size("The same, for predicting.", "32, or 64 with --full", least=0)
    ] = None,
    methods: Annotated[
        str | None,
        _size(
            "Of the comparison, those of the paper among them; names as in 'compare --help'.",
            "those of the paper, or all with --full",
            least=None,
        ),
    ] = None,
    points: Annotated[
        int | None, _size("Points on its curves.", "6, or 21 with --full", least=3)
    ] = None,
    retrain_iterations: Annotated[
        int | None, _size("Steps of each retraining.", "10, or 500 with --full")
    ] = None,
    train_iterations: Annotated[
        int | None,
        _size("Steps of the one-branch and the two-branch network.", "10, or 7500 with --full"),
    ] = None,
    batch_size: Annotated[
        int | None, _size("Patches per step of every training.", "4, or 16 with --full")
    ] = None,
    seeds: Annotated[
        int | None, _size("Repetitions of each retraining.", "1, or 3 with --full")
    ] = None,
    skip: Annotated[
        str, typer.Option(help="Steps to leave out, separated by commas.", show_default="none")
    ] = "",
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[Path, out_option("Folder of every step's results.")] = Path("reproduce-output"),
    page: Annotated[
        Path | None,
        typer.Option(
            help="The page to write; a folder of its name takes its pictures.",
            show_default="reproduction.md in --out",
        ),
    ] = None,
) -> None:
    """Run all of the study, and write each of the paper's tables beside what is measured here.

    A run that is repeated resumes. The page is written after every step; its lines from
    <!-- by hand --> on are kept.

    Example, about 10 minutes: paramattr blindsr reproduce --quick
    """
    options = given(locals(), "quick", "full")
    from rich.console import Console

    from blind_sr.reproduce.experiment import ReproduceConfig, check_kind, run

    asked = {name: options.pop(name) for name in SIZES.split()}
    sizes = {name: value for name, value in asked.items() if value is not None}
    kind = check_kind(quick, full)
    console = Console()
    made = run(ReproduceConfig(kind=kind, sizes=sizes, **options), console.rule)
    console.print(f"page: {made}")

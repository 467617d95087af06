"""Compare every method: Tab. 2 and Fig. 3."""

from __future__ import annotations

import json as json_format
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from blind_sr.options import (
    CropOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ImagesOption,
    JsonOption,
    MethodsOption,
    Network,
    NetworkOption,
    QuadratureOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    check_device,
    progress,
)
from paramattr.errors import ParamattrError


def compare(
    methods: MethodsOption = "all",
    units: Annotated[
        str,
        typer.Option(help="kernel, or output_channel: where Captum's methods take part too."),
    ] = "kernel",
    edit: Annotated[
        str,
        typer.Option(help="masking from the target's side, or insertion from the baseline's."),
    ] = "masking",
    points: Annotated[
        int, typer.Option(min=3, help="Shares of the filters on a curve, from 0 to 100%.")
    ] = 21,
    draws: Annotated[int, typer.Option(min=1, help="Random rankings that are averaged.")] = 1,
    network: NetworkOption = Network.srresnet,
    images: ImagesOption = None,
    weights: WeightsOption = None,
    steps: StepsOption = 8,
    quadrature: QuadratureOption = "gausslegendre",
    crop: CropOption = 40,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[
        Path, typer.Option(help="Folder for the figure, the rows as CSV and JSON, and the scores.")
    ] = Path("compare-output"),
    json: JsonOption = False,
) -> None:
    """Compare every method: Tab. 2 of the paper, and the curves of Fig. 3 from 0 to 100%.

    Every method that looks at data is contrasted; NAME-no-contrast is the same method without
    that. Intervals are 95% bootstrap intervals over the photographs. A run that is repeated with
    the same options after an error or a kill resumes.
    """
    from blind_sr import comparing, report, study
    from blind_sr.rankings import attributed, find_filters, named
    from paramattr.faithfulness.comparison import distinct_scores
    from paramattr.faithfulness.masking import EDITS
    from paramattr.quadrature import get_rule

    names = named(methods, units)
    if edit not in EDITS:
        raise ParamattrError(f"edit {edit!r} is not known: expected {' or '.join(EDITS)}")
    get_rule(quadrature, steps)
    where = {"device": check_device(device), "dtype": dtype.torch}
    pair = study.load_pair(network.value, weights, crop=crop, **where)
    photographs = study.load_photographs(images, crop=crop, seed=seed, **where)
    running = out / "running"
    running.mkdir(parents=True, exist_ok=True)
    with progress("attributing", attributed(names, photographs)) as advance:
        rankings = find_filters(
            pair,
            photographs,
            names,
            units=units,
            n_steps=steps,
            method=quadrature,
            seed=seed,
            random_seeds=draws,
            checkpoints=running,
            advance=advance,
        )
    fractions = [k / (points - 1) for k in range(points)]
    edits = len(set(fractions) | set(comparing.TABLE)) * len(distinct_scores(rankings))
    with progress("measuring", edits) as advance:
        target = study.restore(pair.target, photographs)
        comparisons = comparing.compare_methods(
            pair,
            photographs,
            rankings,
            target,
            fractions=fractions,
            edit=edit,
            checkpoint=running / f"curves_{edit}.safetensors",
            advance=advance,
        )
    result = {
        "network": network.value,
        "images": photographs.names,
        "crop": crop,
        "steps": steps,
        "quadrature": quadrature,
        "dtype": dtype.value,
        "seed": seed,
        "draws": draws,
        "units": units,
        "edit": edit,
        **comparing.result_rows(comparisons),
    }
    console = Console()
    if json:
        print(json_format.dumps(result), flush=True)
    else:
        for table in report.comparison_tables(result):
            console.print(table)
        if units == "kernel":
            console.print("Captum's methods have no single filters: --units output_channel.")
    figure = report.save_comparison(out, comparisons, result)
    shutil.rmtree(running, ignore_errors=True)
    if not json:
        console.print(f"figure: {figure}")

"""Find the filters of each function, mask them, measure what is lost."""

from __future__ import annotations

import json as json_format
import shutil
from pathlib import Path
from typing import Annotated, Optional

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


def mask(
    pct: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(help="Share of the filters to mask, in percent; may be given several times."),
    ] = None,
    methods: MethodsOption = "faig,faig-no-contrast,absolute-change,random",
    network: NetworkOption = Network.srresnet,
    images: ImagesOption = None,
    weights: WeightsOption = None,
    steps: StepsOption = 8,
    quadrature: QuadratureOption = "gausslegendre",
    crop: CropOption = 64,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for scores, selections, restored images and the figure."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the filters that deblur and those that denoise, mask them, measure what is lost.

    The measure is that of Sec. 5.2.1 of the paper: the mean squared difference between the
    gradient maps of the grey outputs with and without the mask, times 1000. The blue channel's
    stands beside it, which is what the authors' script measures.
    """
    from blind_sr import report, study
    from blind_sr.rankings import attributed, find_filters, named
    from paramattr.faithfulness.comparison import distinct_scores
    from paramattr.quadrature import get_rule

    percents = list(dict.fromkeys(pct or [1.0]))
    names = named(methods)
    # All that can be wrong is looked at before the work begins.
    study.check_percents(percents)
    get_rule(quadrature, steps)
    where = {"device": check_device(device), "dtype": dtype.torch}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    pair = study.load_pair(network.value, weights, crop=crop, **where)
    photographs = study.load_photographs(images, crop=crop, seed=seed, **where)
    psnr = {}
    with progress("restoring", 2) as advance:
        for stage, model in (("baseline", pair.baseline), ("target", pair.target)):
            target = study.restore(model, photographs)
            psnr[stage] = study.quality(target, photographs)
            advance(1)
    running = out / "running" if out is not None else None
    with progress("attributing", attributed(names, photographs)) as advance:
        rankings = find_filters(
            pair,
            photographs,
            names,
            n_steps=steps,
            method=quadrature,
            seed=seed,
            checkpoints=running,
            advance=advance,
        )
    with progress("masking", len(distinct_scores(rankings)) * len(percents)) as advance:
        rows = study.mask(pair, photographs, rankings, percents, target, advance=advance)
    ratios = study.ratios(rows)
    shown = rankings[names[0]]
    depth = {f: shown[f][0].top(fraction=percents[0] / 100).depth() for f in study.MASKS}
    result = {
        "network": network.value,
        "images": photographs.names,
        "crop": crop,
        "steps": steps,
        "quadrature": quadrature,
        "dtype": dtype.value,
        "seed": seed,
        "psnr": psnr,
        "rows": rows,
        "ratios": ratios,
        "depth": depth,
    }
    # Printed first: what is computed is not lost where it cannot be saved.
    console = Console()
    if json:
        print(json_format.dumps(result), flush=True)
    else:
        for table in (report.psnr_table(psnr), *report.mask_tables(rows, ratios)):
            console.print(table)
    if out is not None:
        figure = report.save(out, pair, photographs, rankings, percents, target, result)
        shutil.rmtree(out / "running", ignore_errors=True)  # all of it is in the scores now
        if not json:
            console.print(f"figure: {figure}")

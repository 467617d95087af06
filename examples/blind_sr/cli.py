"""The study's commands: `paramattr blindsr train`, `mask` and `compare`."""

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
    Stage,
    StepsOption,
    WeightsOption,
    check_device,
    progress,
)
from paramattr.errors import ParamattrError

app = typer.Typer(
    name="blindsr",
    help="Blind super-resolution: which filters deblur, which denoise.",
    no_args_is_help=True,
)


@app.command()
def train(
    images: Annotated[Path, typer.Option(help="Folder of photographs to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, log and running state.")],
    network: NetworkOption = Network.srresnet,
    stage: Annotated[
        Stage, typer.Option(help="Clean baseline, blind target (from the baseline), or both.")
    ] = Stage.both,
    baseline_iterations: Annotated[int, typer.Option(min=1)] = 4500,
    target_iterations: Annotated[int, typer.Option(min=1)] = 7500,
    baseline_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-4,
    target_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4,
    initial: Annotated[
        Optional[Path],  # noqa: UP045 (Typer on Python 3.10)
        typer.Option(help="Weights that the first stage starts from."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    patch: Annotated[int, typer.Option(min=16, help="Side of a patch, high resolution.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "cpu",
    precision: Annotated[
        str, typer.Option(help="bfloat16, float32, or auto: the faster one of the device.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start afresh over a run.")] = False,
) -> None:
    """Train a baseline (clean input) and a target (blurry and noisy input) on photographs."""
    from blind_sr.networks import load
    from blind_sr.patches import load_photographs
    from blind_sr.training import (
        Recipe,
        check_free,
        fast_precision,
        train_stage,
    )
    from paramattr.checkpoints import load_state_dict

    if precision not in ("auto", "bfloat16", "float32"):
        raise ParamattrError(
            f"precision {precision!r} is not known: expected auto, bfloat16 or float32"
        )
    check_device(device)
    if patch % 2:
        raise ParamattrError(f"patch is {patch}: expected an even number of pixels, such as 64")
    stages = ["baseline", "target"] if stage is Stage.both else [stage.value]
    recipes = [
        Recipe(
            network=network.value,
            stage=name,
            iterations=baseline_iterations if name == "baseline" else target_iterations,
            learning_rate=baseline_rate if name == "baseline" else target_rate,
            batch_size=batch_size,
            patch=patch,
            seed=seed,
            precision=fast_precision(device) if precision == "auto" else precision,
            device=device,
        )
        for name in stages
    ]
    for recipe in recipes:
        check_free(recipe, out, resume=resume, force=force)
    if stage is Stage.target and initial is None:
        initial = out / f"{network.value}_baseline.safetensors"
        if not initial.exists():
            raise ParamattrError(
                f"a target starts from a baseline, and {initial} is not there: train one first "
                "(--stage both), or name its weights (--initial)"
            )
    start = load(network.value, initial).state_dict() if initial is not None else None
    photographs, held_out = load_photographs(images, patch)
    console = Console(stderr=True)
    for recipe in recipes:
        weights = train_stage(
            recipe,
            photographs,
            held_out,
            out,
            initial=start,
            resume=resume,
            force=force,
            console=console,
        )
        console.print(f"{recipe.stage}: {weights}")
        start = load_state_dict(weights)


@app.command()
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
    gradient maps of the grey outputs with and without the mask, times 1000.
    """
    from blind_sr import report, study
    from blind_sr.rankings import attributed, find_filters, named
    from paramattr.comparison import distinct_scores
    from paramattr.quadrature import get_rule

    percents = list(dict.fromkeys(pct or [1.0]))
    names = named(methods)
    # All that can be wrong is looked at before the work begins.
    study.check_percents(percents)
    get_rule(quadrature, steps)
    where = {"device": check_device(device), "dtype": dtype.torch}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    pair = study.load_pair(network.value, weights, **where)
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


@app.command()
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
    network: NetworkOption = Network.srresnet,
    images: ImagesOption = None,
    weights: WeightsOption = None,
    steps: StepsOption = 8,
    quadrature: QuadratureOption = "gausslegendre",
    crop: CropOption = 48,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[
        Path, typer.Option(help="Folder for the figure, the rows as CSV and JSON, and the scores.")
    ] = Path("compare-output"),
    json: JsonOption = False,
) -> None:
    """Compare every method: Tab. 2 of the paper, and the curves of Fig. 3 from 0 to 100%.

    Intervals are 95% bootstrap intervals over the photographs. A run that is repeated with the
    same options after an error or a kill goes on where it stopped.
    """
    from blind_sr import comparing, report, study
    from blind_sr.rankings import attributed, find_filters, named
    from paramattr.comparison import distinct_scores
    from paramattr.faithfulness import EDITS
    from paramattr.quadrature import get_rule

    names = named(methods, units)
    if edit not in EDITS:
        raise ParamattrError(f"edit {edit!r} is not known: expected {' or '.join(EDITS)}")
    get_rule(quadrature, steps)
    where = {"device": check_device(device), "dtype": dtype.torch}
    pair = study.load_pair(network.value, weights, **where)
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
            checkpoints=running,
            advance=advance,
        )
    fractions = [k / (points - 1) for k in range(points)]
    edits = len(set(fractions) | set(comparing.TABLE)) * len(distinct_scores(rankings))
    with progress("measuring", edits) as advance:
        target = study.restore(pair.target, photographs)
        comparison = comparing.compare_methods(
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
        "units": units,
        "edit": edit,
        **comparing.result_rows(comparison),
    }
    console = Console()
    if json:
        print(json_format.dumps(result), flush=True)
    else:
        for table in report.comparison_tables(result):
            console.print(table)
        if units == "kernel":
            console.print("Captum's methods have no single filters: --units output_channel.")
    figure = report.save_comparison(out, comparison, result)
    shutil.rmtree(running, ignore_errors=True)
    if not json:
        console.print(f"figure: {figure}")

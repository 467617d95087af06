"""The study's commands: `paramattr blindsr train` and `paramattr blindsr mask`."""

from __future__ import annotations

import json as json_format
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from paramattr.errors import ParamattrError
from paramattr.progress import progress_bar

app = typer.Typer(
    name="blindsr",
    help="Blind super-resolution: which filters deblur, which denoise.",
    no_args_is_help=True,
)


class Network(str, Enum):
    """The study's networks."""

    srresnet = "srresnet"
    srcnn = "srcnn"


class Stage(str, Enum):
    """What to train."""

    baseline = "baseline"
    target = "target"
    both = "both"


class Dtype(str, Enum):
    """Precisions to compute in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"

    @property
    def torch(self) -> Any:
        """The torch dtype of this name."""
        import torch

        return getattr(torch, self.value)


NetworkOption = Annotated[Network, typer.Option(help="Network of the study.")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]


def progress(description: str, total: float) -> AbstractContextManager[Callable[[float], None]]:
    """Draw a bar on stderr, where a person watches it."""
    return progress_bar(description, total, show=sys.stderr.isatty())


def check_device(device: str) -> str:
    """Refuse a device that torch does not know or cannot reach, in one line.

    Raises:
        ParamattrError: with the reason.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ParamattrError(
            f"device {device!r} cannot be used ({reason}): expected cpu, or an accelerator that "
            "this build of torch reaches, such as cuda"
        ) from None
    return device


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
    methods: Annotated[str, typer.Option(help="Methods, separated by commas, or 'all'.")] = "all",
    network: NetworkOption = Network.srresnet,
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of photographs.", show_default="those of scikit-image"),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of NETWORK_baseline and NETWORK_target.", show_default="bundled"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Nodes of the quadrature rule.")] = 8,
    quadrature: Annotated[str, typer.Option(help="Quadrature rule.")] = "gausslegendre",
    crop: Annotated[
        int,
        typer.Option(min=0, help="Middle of the low-resolution image, pixels a side; 0 for all."),
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and the random control.")] = 0,
    device: DeviceOption = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Precision to compute in.")] = Dtype.float32,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for scores, selections, restored images and the figure."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Find the filters that deblur and those that denoise, mask them, measure what is lost.

    The measure is that of Sec. 5.2.1 of the paper: the mean squared difference between the
    gradient maps of the grey outputs with and without the mask, times 1000.
    """
    from blind_sr import report, study
    from paramattr.quadrature import get_rule

    percents = list(dict.fromkeys(pct or [1.0]))
    names = list(study.METHODS) if methods == "all" else [m.strip() for m in methods.split(",")]
    # All that can be wrong is looked at before the work begins.
    study.check_percents(percents)
    study.check_methods(names)
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
    with progress("attributing", 2 * len(photographs.names)) as advance:
        rankings = study.find_filters(
            pair,
            photographs,
            names,
            n_steps=steps,
            method=quadrature,
            seed=seed,
            checkpoints=running,
            advance=advance,
        )
    models = {
        id(s) for functions in rankings.values() for several in functions.values() for s in several
    }
    with progress("masking", len(models) * len(percents)) as advance:
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

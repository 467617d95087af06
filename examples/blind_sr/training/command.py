"""`paramattr blindsr train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.options import (
    BatchOption,
    DeviceOption,
    ForceOption,
    ImagesOption,
    PatchOption,
    PrecisionOption,
    Stage,
    Trained,
    given,
    out_option,
)

IterationsOption = Annotated[int, typer.Option(min=1, help="Optimiser steps of the stage.")]
RateOption = Annotated[float, typer.Option(help="Peak learning rate of the stage.")]


def train(
    out: Annotated[Path, out_option("Folder for weights, log and running state.")],
    images: ImagesOption = None,
    network: Annotated[Trained, typer.Option(help="Network to train.")] = Trained.srresnet,
    stage: Annotated[
        Stage,
        typer.Option(
            help="Clean baseline, blind target (from the baseline), both of them, or a target for "
            "blur, noise and JPEG: three."
        ),
    ] = Stage.both,
    baseline_iterations: IterationsOption = 4500,
    target_iterations: IterationsOption = 7500,
    baseline_rate: RateOption = 5e-4,
    target_rate: RateOption = 2e-4,
    initial: Annotated[
        Path | None, typer.Option(help="Weights that the first stage starts from.")
    ] = None,
    batch_size: BatchOption = 16,
    patch: PatchOption = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed for initial weights and patches.")] = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Resume an earlier run.")] = False,
    force: ForceOption = False,
) -> None:
    """Train a baseline (clean input) and a target (blurry and noisy input) on photographs.

    The two-branch network has no baseline. It is trained from scratch on blurry and noisy input,
    and so is an SRResNet of its size. Both are then measured side by side (Tab. 1 of the paper).

    Example, about 6 to 12 hours on a CPU: paramattr blindsr train --images DIV2K --out run
    """
    options = given(locals())
    from rich.console import Console

    from blind_sr.console import show
    from blind_sr.training.experiment import TrainConfig, run
    from blind_sr.training.report import branches_table
    from paramattr.runtime.compute import check_device

    check_device(device)
    console = Console(stderr=True)
    result = run(TrainConfig(**options), console)
    for name, file in result.weights.items():
        console.print(f"{name}: {file}")
    if images is None:
        console.print("Trained on scikit-image's photographs: a real run wants --images.")
    if result.branches is not None:
        show(result.branches.content, [branches_table(result.branches)])

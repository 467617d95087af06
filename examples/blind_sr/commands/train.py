"""Train a pair of networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from blind_sr.options import (
    DeviceOption,
    ImagesOption,
    Stage,
    Trained,
    check_device,
)
from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from blind_sr.training import Recipe


def train(
    out: Annotated[Path, typer.Option(help="Folder for weights, log and running state.")],
    images: ImagesOption = None,
    network: Annotated[Trained, typer.Option(help="Network to train.")] = Trained.srresnet,
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
    """Train a baseline (clean input) and a target (blurry and noisy input) on photographs.

    The two-branch network has no baseline: it is trained from scratch on blurry and noisy input,
    and an SRResNet of its size alike, and both are measured side by side (Tab. 1 of the paper).
    """
    from blind_sr.networks import load
    from blind_sr.patches import load_photographs
    from blind_sr.training import (
        Recipe,
        check_free,
        fast_precision,
        train_stage,
    )
    from paramattr.checkpoints import load_state_dict

    check_device(device)
    stages = ["baseline", "target"] if stage is Stage.both else [stage.value]
    if network is Trained.two_branch:
        if stage is Stage.baseline or initial is not None:
            raise ParamattrError(
                "the two-branch network is trained from scratch beside an SRResNet of its size: "
                "expected neither --stage baseline nor --initial"
            )
        stages = ["target"]
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
    if network is Trained.two_branch:
        _train_branches(recipes[0], images, out, resume=resume, force=force)
        return
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
    if images is None:
        console.print("Training on scikit-image's photographs: a real run wants --images.")
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


def _train_branches(
    recipe: Recipe, images: Path | None, out: Path, *, resume: bool, force: bool
) -> None:
    from blind_sr.branches import branches_table, train_both
    from blind_sr.patches import load_photographs

    photographs, held_out = load_photographs(images, recipe.patch)
    result = train_both(
        recipe,
        photographs,
        held_out,
        out,
        resume=resume,
        force=force,
        console=Console(stderr=True),
    )
    Console().print(branches_table(result))

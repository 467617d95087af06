"""Train a baseline and a target, or one branch against two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from blind_sr.data.patches import load_photographs
from blind_sr.models.networks import load
from blind_sr.training.branches import Branches, train_both
from blind_sr.training.recipe import Recipe, fast_precision
from blind_sr.training.trainer import check_free, train_stage
from paramattr.errors import ParamattrError
from paramattr.files.reading import load_state_dict

TWO_BRANCH = "two-branch"


@dataclass(frozen=True)
class TrainConfig:
    """A training.

    Attributes:
        out: folder for weights, log and running state.
        images: folder of photographs; None for those of scikit-image.
        network: `"srresnet"`, `"srcnn"`, `"swin"` or `"two-branch"`.
        stage: `"baseline"`, `"target"`, `"both"` of them, or `"three"`: a target for JPEG too.
        baseline_iterations: optimiser steps of the baseline.
        target_iterations: optimiser steps of the target, of whichever kind.
        baseline_rate: peak learning rate of the baseline.
        target_rate: peak learning rate of the target.
        initial: weights that the first stage starts from.
        batch_size: patches per step.
        patch: side of a high-resolution patch in pixels, even.
        seed: of the first weights and of every patch.
        device: where to train.
        precision: `"bfloat16"`, `"float32"`, or `"auto"`: the faster one of the device.
        resume: resume an earlier run.
        force: start afresh over an earlier run.
    """

    out: Path
    images: Path | None = None
    network: str = "srresnet"
    stage: str = "both"
    baseline_iterations: int = 4500
    target_iterations: int = 7500
    baseline_rate: float = 5e-4
    target_rate: float = 2e-4
    initial: Path | None = None
    batch_size: int = 16
    patch: int = 64
    seed: int = 0
    device: str = "cpu"
    precision: str = "auto"
    resume: bool = False
    force: bool = False

    @property
    def recipes(self) -> list[Recipe]:
        """The stages to train, in order."""
        stages = ["baseline", "target"] if self.stage == "both" else [self.stage]
        if self.network == TWO_BRANCH:
            stages = ["target"]
        kinds = {stage: "baseline" if stage == "baseline" else "target" for stage in stages}
        return [
            Recipe(
                network=self.network,
                stage=stage,
                iterations=getattr(self, f"{kind}_iterations"),
                learning_rate=getattr(self, f"{kind}_rate"),
                batch_size=self.batch_size,
                patch=self.patch,
                seed=self.seed,
                precision=fast_precision(self.device)
                if self.precision == "auto"
                else self.precision,
                device=self.device,
            )
            for stage, kind in kinds.items()
        ]


@dataclass(frozen=True)
class TrainResult:
    """What a training made.

    Attributes:
        weights: stage to file; empty for the two-branch network.
        branches: both branches, for the two-branch network.
    """

    weights: dict[str, Path]
    branches: Branches | None = None


def run(config: TrainConfig, console: Console | None = None) -> TrainResult:
    """Train, or resume, and keep the averaged weights that did best.

    Args:
        config: what, and how.
        console: where to draw progress bars; none by default.

    Raises:
        CheckpointError: if the folder holds such a run and neither `resume` nor `force` is set.
        ParamattrError: for options that do not fit, before any work.
    """
    if config.network == TWO_BRANCH and (config.stage == "baseline" or config.initial is not None):
        raise ParamattrError(
            "the two-branch network is trained from scratch beside an SRResNet of its size: "
            "expected neither --stage baseline nor --initial"
        )
    recipes = config.recipes
    again: dict[str, Any] = {"resume": config.resume, "force": config.force}
    if config.network == TWO_BRANCH:
        photographs, held_out = load_photographs(config.images, config.patch)
        both = train_both(recipes[0], photographs, held_out, config.out, **again, console=console)
        return TrainResult({}, both)
    for recipe in recipes:
        check_free(recipe, config.out, **again)
    start = _start(config)
    photographs, held_out = load_photographs(config.images, config.patch)
    weights = {}
    for recipe in recipes:
        weights[recipe.stage] = train_stage(
            recipe, photographs, held_out, config.out, initial=start, **again, console=console
        )
        start = load_state_dict(weights[recipe.stage])
    return TrainResult(weights)


def _start(config: TrainConfig) -> dict[str, Tensor] | None:
    initial = config.initial
    if config.stage in ("target", "three") and initial is None:
        initial = config.out / f"{config.network}_baseline.safetensors"
        if not initial.exists():
            raise ParamattrError(
                f"a target starts from a baseline, and {initial} is not there: train one first "
                "(--stage both), or name its weights (--initial)"
            )
    return load(config.network, initial).state_dict() if initial is not None else None

"""Retrain only the filters found, from the baseline, and measure what that gains."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from blind_sr.data.patches import read_photographs
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS, PAPER
from blind_sr.models.outputs import quality, restore
from blind_sr.models.pairs import Pair
from blind_sr.rankings.methods import named
from blind_sr.retrain.folder import Folder, select
from blind_sr.retrain.trainings import Row, measured_rows, plan
from blind_sr.setting import Setting, check_percents
from blind_sr.training.recipe import Recipe, fast_precision
from paramattr.files.reading import fingerprint


@dataclass(frozen=True)
class RetrainConfig:
    """A retraining of the filters that methods find.

    Attributes:
        images: folder of photographs to train on; None for those of scikit-image.
        find: folder of photographs on which the filters are found.
        test: folder of photographs to measure on; None for those of `find`.
        pct: share of the filters, in percent.
        methods: names separated by commas, or `"all"`.
        iterations: steps of each training.
        rate: peak learning rate.
        all_rate: peak learning rate of the upper bound, where all weights move.
        batch_size: patches per step.
        patch: side of a high-resolution patch in pixels, even.
        seeds: repetitions, with other patches and other random filters.
        network: `"srresnet"` or `"srcnn"`.
        weights: folder of the pair; None for the bundled one.
        steps: nodes of the quadrature rule.
        crop: middle of the low-resolution image that is used; 0 for all.
        device: where to compute.
        precision: of training: `"bfloat16"`, `"float32"` or `"auto"`.
        out: folder that keeps what was done, so that a repeated run resumes.
        force: start afresh over an earlier run.
    """

    images: Path | None = None
    find: Path | None = None
    test: Path | None = None
    pct: float = 1.0
    methods: str = ",".join(PAPER)
    iterations: int = 500
    rate: float = 2e-3
    all_rate: float = 5e-4
    batch_size: int = 16
    patch: int = 64
    seeds: int = 1
    network: str = "srresnet"
    weights: Path | None = None
    steps: int = 4
    crop: int = 64
    device: str = "cpu"
    precision: str = "auto"
    out: Path = Path("retrain-output")
    force: bool = False

    @property
    def setting(self) -> Setting:
        """What the filters are found on."""
        return Setting(
            self.network, self.weights, self.find, self.crop, self.steps, device=self.device
        )

    @property
    def recipe(self) -> Recipe:
        """How the filters are trained."""
        auto = self.precision == "auto"
        return Recipe(
            network=self.network,
            stage="blur",
            iterations=self.iterations,
            learning_rate=self.rate,
            batch_size=self.batch_size,
            patch=self.patch,
            precision=fast_precision(self.device) if auto else self.precision,
            device=self.device,
        )


@dataclass(frozen=True)
class RetrainResult:
    """What a retraining gave.

    Attributes:
        config: what was run.
        methods: names of the methods.
        options: all that decides the outcome of a training.
        images: `"train"`, `"find"` and `"test"` to names of photographs.
        psnr: `"baseline"` and `"target"`, then input, to mean PSNR in dB.
        rows: a row per training and kind of filters.
    """

    config: RetrainConfig
    methods: list[str]
    options: dict[str, Any]
    images: dict[str, list[str]]
    psnr: dict[str, dict[str, float]]
    rows: list[Row]

    @property
    def content(self) -> dict[str, Any]:
        """All of it, of the kinds JSON knows."""
        names = ("network", "pct", "iterations", "seeds")
        return {
            **{name: getattr(self.config, name) for name in names},
            "methods": self.methods,
            **self.psnr,
            "rows": self.rows,
            "unchanged": True,  # or an error would have been raised
            "recipe": self.options,
            "images": self.images,
        }


def run(config: RetrainConfig) -> RetrainResult:
    """Find the filters, retrain them on each degradation, measure on photographs.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    names, setting = named(config.methods), config.setting
    check_percents(config.pct)
    setting.check()
    recipe = config.recipe
    replace(recipe, learning_rate=config.all_rate)  # looks at it
    pair, found_on = setting.load_pair(), setting.load_photographs()
    tested_on = found_on
    if config.test is not None:
        tested_on = replace(setting, images=config.test).load_photographs()
    trained_on = read_photographs(config.images, config.patch)
    options = _options(config, pair, found_on, trained_on)
    folder = Folder(config.out)
    folder.claim(options, force=config.force)
    selections = select(setting, pair, found_on, names, folder, pct=config.pct, seeds=config.seeds)
    rows = measured_rows(
        plan(selections, config.seeds),
        pair,
        list(trained_on.values()),
        tested_on,
        recipe,
        folder,
        all_rate=config.all_rate,
        console=Console(stderr=True, quiet=not sys.stderr.isatty()),
    )
    images = {
        "train": [path.name for path in trained_on],
        "find": found_on.names,
        "test": tested_on.names,
    }
    stages = {"baseline": pair.baseline, "target": pair.target}
    psnr = {s: quality(restore(m, tested_on, MASKS), tested_on) for s, m in stages.items()}
    return RetrainResult(config, names, options, images, psnr, list(rows))


def _options(
    config: RetrainConfig,
    pair: Pair,
    found_on: Photographs,
    trained_on: dict[Path, UInt8[Tensor, "3 h w"]],
) -> dict[str, Any]:
    return {
        "network": config.network,
        "weights": pair.digest[:16],
        "images": fingerprint([{p.name: image for p, image in trained_on.items()}])[:16],
        "find": fingerprint([dict(zip(found_on.names, found_on.high, strict=True))])[:16],
        "crop": config.crop,
        "steps": config.steps,
        "pct": config.pct,
        "iterations": config.iterations,
        "rate": config.rate,
        "all-rate": config.all_rate,
        "batch-size": config.batch_size,
        "patch": config.patch,
        "precision": config.recipe.precision,
        "device": config.device,
    }

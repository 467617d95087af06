"""The whole study as a list of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from blind_sr.compare import experiment as compare
from blind_sr.compare import report as compare_report
from blind_sr.data.images import find_images
from blind_sr.labels import MASKS, PAPER
from blind_sr.mask import experiment as mask
from blind_sr.mask import report as mask_report
from blind_sr.models.pairs import weights_file
from blind_sr.modulate import experiment as modulate
from blind_sr.modulate import report as modulate_report
from blind_sr.predict import experiment as predict
from blind_sr.predict import report as predict_report
from blind_sr.rankings.methods import named
from blind_sr.reproduce.step import Step, digest
from blind_sr.retrain import experiment as retrain
from blind_sr.retrain import report as retrain_report
from blind_sr.setting import Setting
from blind_sr.training import experiment as train
from paramattr.errors import ParamattrError


def _saved(experiment: Any, report: Any) -> Callable[[Any], dict[str, Any]]:
    def run(config: Any) -> dict[str, Any]:
        result = experiment.run(config)
        report.save(config.out, result)
        content: dict[str, Any] = result.content
        return content

    return run


def _trained(config: train.TrainConfig) -> dict[str, Any]:
    branches = train.run(config).branches
    return {} if branches is None else branches.content


EXPERIMENTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "mask": _saved(mask, mask_report),
    "compare": _saved(compare, compare_report),
    "retrain": _saved(retrain, retrain_report),
    "predict": _saved(predict, predict_report),
    "modulate": _saved(modulate, modulate_report),
    "train": _trained,
}
"""Name of an experiment to what runs it, writes its files and gives its numbers."""


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes:
        crop: middle of the low-resolution photographs that filters are found and masked on.
        predict_crop: the same for predicting, where every input is ranked.
        steps: nodes of the quadrature rule.
        methods: of the comparison.
        points: of its curves.
        batch_size: of every training.
        retrain_iterations: of each retraining.
        train_iterations: of the one-branch and the two-branch network.
        seeds: repetitions of each retraining.
    """

    crop: int
    predict_crop: int
    steps: int
    methods: str
    points: int
    batch_size: int
    retrain_iterations: int
    train_iterations: int
    seeds: int

    def check(self) -> None:
        """Refuse a comparison that lacks methods of the paper's tables.

        Raises:
            ParamattrError: naming those that are expected.
        """
        if set(PAPER) - set(named(self.methods)):
            raise ParamattrError(
                f"methods is {self.methods!r}: expected all of the paper's ({','.join(PAPER)}) "
                "among them"
            )


QUICK = Size(
    crop=32,
    predict_crop=32,
    steps=4,
    methods=",".join(PAPER),
    points=6,
    batch_size=4,
    retrain_iterations=10,
    train_iterations=10,
    seeds=1,
)
FULL = Size(
    crop=100,
    predict_crop=64,
    steps=8,
    methods="all",
    points=21,
    batch_size=16,
    retrain_iterations=500,
    train_iterations=7500,
    seeds=3,
)

Folders = Mapping[str, Path | None]
"""`"images"` to find filters on and mask them, `"train"`, `"fit"` and `"test"`; None for the
photographs of scikit-image."""


def steps(
    networks: Sequence[str],
    size: Size,
    folders: Folders,
    weights: Path | None,
    device: str,
    out: Path,
    dtype: str = "float32",
) -> list[Step]:
    """List the experiments of the study.

    Args:
        networks: whose pairs there are.
        size: how much is computed.
        folders: of photographs.
        weights: folder of the pairs; None for the bundled ones.
        device: where to compute.
        out: folder of the steps' folders.
        dtype: precision of what attributes; trainings take the faster one of the device.

    Raises:
        DataError: if a folder of photographs is not there, or holds none, or an unreadable one.
    """
    found: list[Step] = []
    for network in networks:
        setting = Setting(
            network,
            weights,
            folders["images"],
            size.crop,
            size.steps,
            device=device,
            dtype=dtype,
        )
        found += _of_network(setting, size, folders, out)
    training = train.TrainConfig(
        out,
        folders["train"],
        "two-branch",
        target_iterations=size.train_iterations,
        target_rate=5e-4,
        batch_size=size.batch_size,
        device=device,
        resume=True,
    )
    found.append(Step("two-branch-train", EXPERIMENTS["train"], training, "branches.json"))
    used = [_files(step.config) for step in found]
    once = cache(digest)
    return [
        replace(step, contents={key: once(files) for key, files in own.items()})
        for step, own in zip(found, used, strict=True)
    ]


def without(steps: Sequence[Step], skip: str) -> list[Step]:
    """Leave steps out.

    Args:
        steps: of `steps`.
        skip: names, separated by commas.

    Raises:
        ParamattrError: for an unknown name, for a step that would miss another's results, or if
            no step is left.
    """
    skipped = [name.strip() for name in skip.split(",") if name.strip()]
    known = [step.name for step in steps]
    for name in skipped:
        if name not in known:
            raise ParamattrError(
                f"step {name!r} to skip is not known: expected some of {', '.join(known)}"
            )
    left = [step for step in steps if step.name not in skipped]
    for step in left:
        if step.after in skipped:
            raise ParamattrError(
                f"step {step.name!r} uses the results of {step.after!r}, which is to be skipped: "
                "skip both or neither"
            )
    if not left:
        raise ParamattrError("all steps are to be skipped: expected one or more to run")
    return left


def _files(config: Any) -> dict[str, tuple[Path, ...]]:
    setting = getattr(config, "setting", None)
    folders = {key: getattr(config, key, None) for key in ("images", "find", "fit", "test")}
    if setting is not None and not hasattr(config, "find"):
        folders["images"] = setting.images
    found = {key: tuple(find_images(own)) for key, own in folders.items() if own is not None}
    if setting is not None:
        stages = ("baseline", "target")
        pair = [weights_file(setting.network, stage, setting.weights) for stage in stages]
        found["weights"] = tuple(file for file in pair if file is not None)
    return found


def _of_network(setting: Setting, size: Size, folders: Folders, out: Path) -> Iterator[Step]:
    name = setting.network
    masking = mask.MaskConfig(setting, "faig,faig-no-contrast,random", out=out)
    pictures = {"mask": "figure.png", "no-contrast": "figure_faig-no-contrast.png"}
    pictures["distribution"] = "distribution.png"
    yield Step(f"{name}-mask", EXPERIMENTS["mask"], masking, "result.json", pictures)

    methods = ",".join(named(size.methods))
    comparing = compare.CompareConfig(setting, methods, points=size.points, out=out)
    pictures = {"curves": "curves.png", "curves-blue": "curves_blue.png"}
    yield Step(f"{name}-compare", EXPERIMENTS["compare"], comparing, "compare.json", pictures)

    retraining = retrain.RetrainConfig(
        images=folders["train"],
        find=folders["images"],
        iterations=size.retrain_iterations,
        batch_size=size.batch_size,
        seeds=size.seeds,
        network=name,
        weights=setting.weights,
        steps=size.steps,
        crop=size.crop,
        device=setting.device,
        out=out,
    )
    pictures = {"retrain": "retrain.png"}
    yield Step(f"{name}-retrain", EXPERIMENTS["retrain"], retraining, "retrain.json", pictures)

    on_inputs = replace(setting, images=None, crop=size.predict_crop, steps=4)
    for reference in ("self", "truth"):
        predicting = predict.PredictConfig(
            on_inputs,
            folders["images"],
            folders["fit"],
            folders["test"],
            reference=reference,
            out=out,
        )
        pictures = {"overlaps": "overlaps.png"} if reference == "self" else {}
        yield Step(
            f"{name}-predict-{reference}",
            EXPERIMENTS["predict"],
            predicting,
            "predict.json",
            pictures,
        )
    for filters in MASKS:
        selection = out / f"{name}-mask/selections/faig_{filters}_1pct.safetensors"
        modulating = modulate.ModulateConfig(setting, filters, selection=selection, out=out)
        yield Step(
            f"{name}-modulate-{filters}",
            EXPERIMENTS["modulate"],
            modulating,
            "modulate.json",
            {f"modulate-{filters}": "modulate.png"},
            after=f"{name}-mask",
        )

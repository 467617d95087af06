"""The whole study as a list of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from blind_sr.commands.compare import compare
from blind_sr.commands.mask import mask
from blind_sr.commands.modulate import Filters, modulate
from blind_sr.commands.predict import predict
from blind_sr.commands.retrain import retrain
from blind_sr.commands.train import train
from blind_sr.images import find_images
from blind_sr.options import Dtype, Network, Trained
from blind_sr.rankings import named
from blind_sr.step import Step, digest
from blind_sr.study import weights_file
from paramattr.errors import ParamattrError

PAPER = "faig,ig-no-contrast,absolute-change,random"
"""The methods of the paper's tables."""


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


QUICK = Size(
    crop=32,
    predict_crop=32,
    steps=4,
    methods=PAPER,
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


def steps(
    networks: Sequence[Network],
    size: Size,
    folders: Mapping[str, Path | None],
    weights: Path | None,
    device: str,
    out: Path,
    dtype: Dtype = Dtype.float32,
) -> list[Step]:
    """List the commands of the study.

    Args:
        networks: whose pairs there are.
        size: how much is computed.
        folders: of photographs: `"images"` to find filters on and mask them, `"train"`, `"fit"`
            and `"test"`; None for those of scikit-image.
        weights: folder of the pairs; None for the bundled ones.
        device: where to compute.
        out: folder of the steps' folders.
        dtype: precision of what attributes; trainings take the faster one of the device.

    Raises:
        DataError: if a folder of photographs is not there, or holds none, or an unreadable one.
    """
    found: list[Step] = []
    for network in networks:
        own = {"network": network, "weights": weights, "device": device}
        found += _of_network(own, dtype, size, folders, out)
    found.append(
        Step(
            "two-branch-train",
            train,
            {
                "network": Trained.two_branch,
                "images": folders["train"],
                "target_iterations": size.train_iterations,
                "target_rate": 5e-4,
                "batch_size": size.batch_size,
                "device": device,
                "resume": True,
            },
            "branches.json",
        )
    )
    used = [_files(step.options) for step in found]
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


def _files(options: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    folders = [key for key in ("images", "find", "fit", "test") if options.get(key) is not None]
    found = {key: tuple(find_images(options[key])) for key in folders}
    if "weights" in options:
        stages = ("baseline", "target")
        pair = [weights_file(options["network"].value, s, options["weights"]) for s in stages]
        found["weights"] = tuple(file for file in pair if file is not None)
    return found


def _of_network(
    own: Mapping[str, Any],
    dtype: Dtype,
    size: Size,
    folders: Mapping[str, Path | None],
    out: Path,
) -> Iterator[Step]:
    nodes = {"steps": size.steps, "crop": size.crop}
    found = {**own, **nodes, "images": folders["images"], "dtype": dtype}
    name = own["network"].value
    yield Step(
        f"{name}-mask",
        mask,
        {**found, "methods": "faig,faig-no-contrast,random"},
        "result.json",
        {
            "mask": "figure.png",
            "no-contrast": "figure_faig-no-contrast.png",
            "distribution": "distribution.png",
        },
    )
    yield Step(
        f"{name}-compare",
        compare,
        {**found, "methods": ",".join(named(size.methods)), "points": size.points},
        "compare.json",
        {"curves": "curves.png"},
    )
    yield Step(
        f"{name}-retrain",
        retrain,
        {
            **own,
            **nodes,
            "images": folders["train"],
            "find": folders["images"],
            "methods": PAPER,
            "iterations": size.retrain_iterations,
            "batch_size": size.batch_size,
            "seeds": size.seeds,
        },
        "retrain.json",
        {"retrain": "retrain.png"},
    )
    for reference in ("self", "truth"):
        yield Step(
            f"{name}-predict-{reference}",
            predict,
            {
                **own,
                "find": folders["images"],
                "fit": folders["fit"],
                "test": folders["test"],
                "reference": reference,
                "crop": size.predict_crop,
                "dtype": dtype,
            },
            "predict.json",
            {"overlaps": "overlaps.png"} if reference == "self" else {},
        )
    for kind in Filters:
        yield Step(
            f"{name}-modulate-{kind.value}",
            modulate,
            {
                **found,
                "filters": kind,
                "selection": out / f"{name}-mask/selections/faig_{kind.value}_1pct.safetensors",
            },
            "modulate.json",
            {f"modulate-{kind.value}": "modulate.png"},
            after=f"{name}-mask",
        )

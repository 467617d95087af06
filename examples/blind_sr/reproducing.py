"""The whole study as a list of commands, each run once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blind_sr.commands.compare import compare
from blind_sr.commands.mask import mask
from blind_sr.commands.modulate import Filters, modulate
from blind_sr.commands.predict import predict
from blind_sr.commands.retrain import retrain
from blind_sr.commands.train import train
from blind_sr.images import find_images
from blind_sr.options import Network, Trained
from paramattr.errors import CheckpointError

PAPER = "faig,ig,absolute-change,random"
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


@dataclass(frozen=True)
class Step:
    """One command of the study.

    Attributes:
        name: of its folder, `NETWORK-COMMAND`.
        command: a function of the command line.
        options: what it is called with, beside its folder.
        result: the file with its rows.
        figures: name of a picture to its file.
    """

    name: str
    command: Callable[..., None]
    options: Mapping[str, Any]
    result: str
    figures: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a folder of photographs that is not there, before any step begins.

        Raises:
            DataError: naming the folder.
        """
        for key in ("images", "find", "fit", "test"):
            if self.options.get(key) is not None:
                find_images(self.options[key])

    def run(self, out: Path) -> dict[str, Any]:
        """Run the command, unless it was run with these options, and read its result.

        Raises:
            CheckpointError: if the folder holds anything else; nothing is removed.
        """
        folder = out / self.name
        asked = json.dumps({key: _written(value) for key, value in self.options.items()}, indent=1)
        stamp, finished = folder / "options.json", folder / "finished"
        made = stamp.read_text() if stamp.exists() else ""
        if made != asked and folder.exists() and any(folder.iterdir()):
            raise CheckpointError(
                f"folder {folder} holds a run with other options: expected one of {self.name} with "
                "these; give another folder (--out), or remove that one"
            )
        if not finished.exists():
            folder.mkdir(parents=True, exist_ok=True)
            stamp.write_text(asked)
            self.command(**self.options, out=folder)
            finished.touch()
        found: dict[str, Any] = json.loads((folder / self.result).read_text())
        return found


def steps(
    networks: list[Network],
    size: Size,
    folders: Mapping[str, Path | None],
    weights: Path | None,
    device: str,
    out: Path,
) -> Iterator[Step]:
    """List the commands of the study.

    Args:
        networks: whose pairs there are.
        size: how much is computed.
        folders: of photographs: `"images"` to find filters on and mask them, `"train"`, `"fit"`
            and `"test"`; None for those of scikit-image.
        weights: folder of the pairs; None for the bundled ones.
        device: where to compute.
        out: folder of the steps' folders.
    """
    for network in networks:
        yield from _of_network(network, size, folders, weights, device, out)
    yield Step(
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


def _of_network(
    network: Network,
    size: Size,
    folders: Mapping[str, Path | None],
    weights: Path | None,
    device: str,
    out: Path,
) -> Iterator[Step]:
    own: dict[str, Any] = {"network": network, "weights": weights, "device": device}
    nodes = {"steps": size.steps, "crop": size.crop}
    found = {**own, **nodes, "images": folders["images"]}
    name = network.value
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
        {**found, "methods": size.methods, "points": size.points},
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
        )


def _written(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return value

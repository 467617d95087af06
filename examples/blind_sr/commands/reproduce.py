"""Run the whole study and write the page that lays it beside the paper."""

from __future__ import annotations

import json as json_format
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from blind_sr.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    Network,
    WeightsOption,
    check_device,
)
from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from blind_sr.reproducing import Size

_BUNDLED = "those of scikit-image"
_LOOK = 100
"""Iterations below which a training shows only that it runs."""


def reproduce(
    quick: Annotated[
        bool, typer.Option("--quick", help="Everything in small, in minutes; for a look.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Everything; hours without a GPU.")] = False,
    images: Annotated[
        Optional[Path],  # noqa: UP045 (Typer on Python 3.10)
        typer.Option(help="Where filters are found and masked (Set14).", show_default=_BUNDLED),
    ] = None,
    train: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Training photographs (DIV2K).", show_default=_BUNDLED),
    ] = None,
    fit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where thresholds are fitted (BSD100).", show_default=_BUNDLED),
    ] = None,
    test: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where degradations are predicted (Urban100).", show_default=_BUNDLED),
    ] = None,
    crop: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            help="Middle of the low-resolution photographs, pixels a side; 0 for all.",
            show_default="32, or 100 with --full",
        ),
    ] = None,
    predict_crop: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="The same, for predicting.", show_default="32, or 64 with --full"),
    ] = None,
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Of the comparison, those of the paper among them.",
            show_default="those of the paper, or all with --full",
        ),
    ] = None,
    points: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=3, help="Of its curves.", show_default="6, or 21 with --full"),
    ] = None,
    retrain_iterations: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="Steps of each retraining.", show_default="10, or 500 with --full"
        ),
    ] = None,
    train_iterations: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="Steps of the one-branch and of the two-branch network.",
            show_default="10, or 7500 with --full",
        ),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Of every training.", show_default="4, or 16 with --full"),
    ] = None,
    seeds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="Repetitions of each retraining.", show_default="1, or 3 with --full"
        ),
    ] = None,
    skip: Annotated[
        str, typer.Option(help="Steps to leave out, separated by commas.", show_default="none")
    ] = "",
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[Path, typer.Option(help="Folder of every step's results.")] = Path(
        "reproduce-output"
    ),
    page: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="The page to write; a folder of its name takes its pictures.",
            show_default="reproduction.md in --out",
        ),
    ] = None,
) -> None:
    """Run all of the study, and write each of the paper's tables beside what is measured here.

    A run that is repeated resumes. The page is written after every step; its lines from
    <!-- by hand --> on are kept.
    """
    from blind_sr import reproducing
    from blind_sr.page import page as laid_out
    from blind_sr.page import write
    from blind_sr.rankings import named
    from blind_sr.study import load_pair

    if quick == full:
        raise ParamattrError("expected one of --quick (minutes) and --full (hours)")
    asked = {
        "crop": crop,
        "predict_crop": predict_crop,
        "methods": methods,
        "points": points,
        "batch_size": batch_size,
        "retrain_iterations": retrain_iterations,
        "train_iterations": train_iterations,
        "seeds": seeds,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    size = replace(reproducing.QUICK if quick else reproducing.FULL, **given)
    missing = set(named(reproducing.PAPER)) - set(named(size.methods))
    if missing:
        raise ParamattrError(
            f"methods is {size.methods!r}: expected all of the paper's ({reproducing.PAPER}) "
            "among them"
        )
    check_device(device)
    networks = _networks(weights)
    for network in networks:
        load_pair(network.value, weights)
    folders = {"images": images, "train": train, "fit": fit, "test": test}
    every = reproducing.steps(networks, size, folders, weights, device, out, dtype)
    chosen = reproducing.without(every, skip)
    # Looks at every folder before any work, and lets the page begin with what is finished.
    ordered = sorted(chosen, key=lambda step: not step.finished(out))
    names = [step.name for step in chosen]
    left_out = [step.name for step in every if step.name not in names]
    places = {**folders, "weights": weights}
    given |= {name: place.name for name, place in places.items() if place is not None}
    given |= {} if device == "cpu" else {"device": device}
    given |= {} if dtype is Dtype.float32 else {"dtype": dtype.value}
    given |= {"skip": ",".join(left_out)} if left_out else {}
    options = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    command = " ".join(["paramattr blindsr reproduce", "--quick" if quick else "--full", *options])
    facts = _facts(command, size, folders, device, names)
    page = out / "reproduction.md" if page is None else page
    pictures = page.parent / page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    results, figures = {}, {}
    console = Console()
    for number, step in enumerate(ordered, 1):
        console.rule(f"{number} of {len(ordered)}: {step.name}")
        results[step.name] = step.run(out)
        for name, file in step.figures.items():
            picture = pictures / f"{step.options['network'].value}-{name}.png"
            shutil.copyfile(out / step.name / file, picture)
            figures[picture.stem] = picture.relative_to(page.parent)
        yet = [name for name in names if name not in results]
        write(page, laid_out(results, figures, facts, left_out=left_out, missing=yet))
    kept = {name: results[name] for name in names}
    (out / "results.json").write_text(json_format.dumps(kept, indent=1) + "\n")
    console.print(f"page: {page}")


def _networks(weights: Path | None) -> list[Network]:
    from blind_sr.study import BUNDLED_WEIGHTS, weights_file

    found = [
        n for n in (Network.srresnet, Network.srcnn) if weights_file(n.value, "target", weights)
    ]
    if not found:
        raise ParamattrError(
            f"folder {weights or BUNDLED_WEIGHTS} holds no pair of the study: expected "
            "srresnet_baseline and srresnet_target; train them with 'paramattr blindsr train'"
        )
    return found


def _facts(
    command: str, size: Size, folders: Mapping[str, Path | None], device: str, names: Sequence[str]
) -> list[str]:
    import torch

    import paramattr
    from blind_sr.paper_tables import counted

    trained = any(name.endswith("train") for name in names)
    predicted = any("-predict-" in name for name in names)
    places = {
        "images": (
            any(name != "two-branch-train" for name in names),
            "filters found and masked on",
        ),
        "train": (trained, "trained on"),
        "fit": (predicted, "thresholds fitted on"),
        "test": (predicted, "degradations predicted on"),
    }
    used = []
    for name, (is_used, what) in places.items():
        folder = folders[name]
        if is_used:
            used.append(
                f"{what} {'the photographs of scikit-image' if folder is None else folder.name}"
            )
    facts = [
        f"Written by `{command}` with paramattr {paramattr.__version__} and torch "
        f"{torch.__version__} on {_where(device)}: {', '.join(used)}.",
        "The paper trains on DIV2K for a million iterations and measures whole photographs. What "
        "the networks here were trained on, and for how long, stands in the card beside the "
        "weights (`MODEL_CARD.md`); the size of every measurement stands with its table. Compare "
        "signs and ratios rather than values.",
    ]
    short = []
    if size.train_iterations < _LOOK and "two-branch-train" in names:
        short.append(f"Table 1 after {counted(size.train_iterations, 'iteration')} of each network")
    if size.retrain_iterations < _LOOK and any(name.endswith("-retrain") for name in names):
        short.append(
            f"Table 3 after {counted(size.retrain_iterations, 'iteration')} of each training"
        )
    if short:
        facts.append(
            f"**A look, not a measurement**: {', and '.join(short)}. So few show that everything "
            "runs, and mean nothing else."
        )
    return facts


def _where(device: str) -> str:
    import torch

    kind = torch.device(device).type
    if kind != "cuda":
        return "a CPU" if kind == "cpu" else device
    built = f" (CUDA {torch.version.cuda})" if torch.version.cuda else ""
    return torch.cuda.get_device_name(device) + built

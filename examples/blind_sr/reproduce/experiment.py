"""Run the whole study, step by step, and write its page after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blind_sr.models.pairs import load_pair, networks_of
from blind_sr.reproduce.facts import facts
from blind_sr.reproduce.page import page as laid_out
from blind_sr.reproduce.page import write
from blind_sr.reproduce.step import Step
from blind_sr.reproduce.steps import FULL, QUICK, Folders, Size, steps, without
from blind_sr.run import write_json
from paramattr.errors import ParamattrError
from paramattr.files.writing import write_whole
from paramattr.runtime.compute import check_device

SIZES = {"quick": QUICK, "full": FULL}


@dataclass(frozen=True)
class ReproduceConfig:
    """A run of the whole study.

    Attributes:
        kind: `"quick"` (minutes) or `"full"` (hours).
        images: folder of photographs to find filters on and mask them; None for those of
            scikit-image, here and below.
        train: folder of training photographs.
        fit: folder to fit thresholds on.
        test: folder to predict degradations on.
        sizes: fields of `Size` that differ from those of the kind.
        skip: names of steps to leave out, separated by commas.
        weights: folder of the pairs; None for the bundled ones.
        device: where to compute.
        dtype: precision of what attributes.
        out: folder of every step's results.
        page: the page to write; None for `reproduction.md` in `out`.
    """

    kind: str
    images: Path | None
    train: Path | None
    fit: Path | None
    test: Path | None
    sizes: dict[str, Any]
    skip: str
    weights: Path | None
    device: str
    dtype: str
    out: Path
    page: Path | None

    @property
    def folders(self) -> Folders:
        """The folders of photographs."""
        return {name: getattr(self, name) for name in ("images", "train", "fit", "test")}

    @property
    def size(self) -> Size:
        """How much is computed."""
        return replace(SIZES[self.kind], **self.sizes)

    def command(self, left_out: list[str]) -> str:
        """The command line that makes this run, without its places on this machine."""
        given = dict(self.sizes)
        places = {**self.folders, "weights": self.weights}
        given |= {name: place.name for name, place in places.items() if place is not None}
        given |= {} if self.device == "cpu" else {"device": self.device}
        given |= {} if self.dtype == "float32" else {"dtype": self.dtype}
        given |= {"skip": ",".join(left_out)} if left_out else {}
        options = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
        return " ".join(["paramattr blindsr reproduce", f"--{self.kind}", *options])


def run(config: ReproduceConfig, begin: Callable[[str], None] = lambda title: None) -> Path:
    """Run the steps that are not finished, and lay their results beside the paper.

    Args:
        config: what is run.
        begin: called with a line before each step.

    Returns:
        The page.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    size, out = config.size, config.out
    size.check()
    check_device(config.device)
    networks = networks_of(config.weights)
    for network in networks:
        load_pair(network, config.weights)
    every = steps(networks, size, config.folders, config.weights, config.device, out, config.dtype)
    chosen = without(every, config.skip)
    # Looks at every folder before any work, and lets the page begin with what is finished.
    ordered = sorted(chosen, key=lambda step: not step.finished(out))
    names = [step.name for step in chosen]
    left_out = [step.name for step in every if step.name not in names]
    said = facts(config.command(left_out), size, config.folders, config.device, names)
    page = out / "reproduction.md" if config.page is None else config.page
    results: dict[str, dict[str, Any]] = {}
    figures: dict[str, Path] = {}
    for number, step in enumerate(ordered, 1):
        begin(f"{number} of {len(ordered)}: {step.name}")
        results[step.name] = step.run(out)
        figures |= _copied(step, out, page)
        yet = [name for name in names if name not in results]
        write(page, laid_out(results, figures, said, left_out=left_out, missing=yet))
    write_json(out / "results.json", {name: results[name] for name in names})
    return page


def check_kind(quick: bool, full: bool) -> str:
    """Name what is to be run.

    Raises:
        ParamattrError: if it is not one of the two.
    """
    if quick == full:
        raise ParamattrError("expected one of --quick (minutes) and --full (hours)")
    return "quick" if quick else "full"


def _copied(step: Step, out: Path, page: Path) -> dict[str, Path]:
    """Put a step's pictures beside the page; `NETWORK-PICTURE` to a path relative to it."""
    pictures = page.parent / page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, file in step.figures.items():
        picture = pictures / f"{step.network}-{name}.png"
        write_whole(picture, (out / step.name / file).read_bytes())
        found[picture.stem] = picture.relative_to(page.parent)
    return found

"""Restore one image with the filters found at a chosen strength."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from blind_sr.data.images import SUFFIXES, read_image, write_image
from blind_sr.models.pairs import Pair
from blind_sr.rankings.search import find_units
from blind_sr.restore.tiles import restore_whole
from blind_sr.setting import Setting, check_percents
from paramattr import Selection, modulate
from paramattr.errors import ParamattrError


@dataclass(frozen=True)
class RestoreConfig:
    """The restoration of one image.

    Attributes:
        image: the low-resolution image.
        strength: 0 puts the baseline's filters in, 1 the target's.
        setting: pair, photographs to find the filters on, rule and machine.
        filters: `"blur"` or `"noise"`.
        pct: share of the filters, in percent.
        selection: filters found before; None finds them on the photographs.
        output: file to write; None for `NAME_FILTERS_STRENGTH.png`.
    """

    image: Path
    strength: float
    setting: Setting = field(default_factory=Setting)
    filters: str = "blur"
    pct: float = 1.0
    selection: Path | None = None
    output: Path | None = None


@dataclass(frozen=True)
class RestoreResult:
    """What was written.

    Attributes:
        output: the file.
        width: of the restored image, in pixels.
        height: of the restored image, in pixels.
        filters: whose strength was set.
        strength: of the filters.
        selected: how many filters.
    """

    output: Path
    width: int
    height: int
    filters: str
    strength: float
    selected: int

    @property
    def content(self) -> dict[str, Any]:
        """All of it, of the kinds JSON knows."""
        return {**vars(self), "output": str(self.output)}


def run(config: RestoreConfig) -> RestoreResult:
    """Restore an image of any size and write it.

    Raises:
        ParamattrError: for settings or files that cannot be, before any work.
    """
    setting, image = config.setting, config.image
    check_percents(config.pct)
    if not math.isfinite(config.strength):
        raise ParamattrError(
            f"strength is {config.strength}: expected a finite number, such as 0.5; 0 for the "
            "baseline's filters, 1 for the target's"
        )
    output = config.output or Path(f"{image.stem}_{config.filters}_{config.strength:g}.png")
    low = read_image(image)[None].float() / 255
    check_output(output, image)
    setting.check()
    pair = setting.load_pair()
    chosen = select_filters(setting, pair, config.filters, config.pct, config.selection)
    width, height = restore_file(pair, low, chosen, config.strength, output)
    return RestoreResult(output, width, height, config.filters, config.strength, len(chosen))


def select_filters(
    setting: Setting, pair: Pair, filters: str, pct: float, selection: Path | None
) -> Selection:
    """Read the filters that were found before, or find them on the setting's photographs."""
    if selection is not None:
        return load_selection(selection, pair)
    return find_units(setting, pair, setting.load_photographs(), pct)[filters]


def restore_file(
    pair: Pair,
    low: Float[Tensor, "1 3 h w"],
    selection: Selection,
    strength: float,
    output: Path,
) -> tuple[int, int]:
    """Restore an image with the selected filters at a strength, and write it.

    Returns:
        Width and height of what was written, in pixels.
    """
    model = modulate(pair.target, pair.baseline, selection, strength)
    restored = restore_whole(model, low.to(next(model.parameters())))
    write_image(restored[0], output)
    return restored.shape[-1], restored.shape[-2]


def load_selection(path: str | Path, pair: Pair) -> Selection:
    """Read filters that were found on a network of the pair's architecture.

    Raises:
        CheckpointError: if the file is missing, broken, or holds no selection.
        UnitError: if the selection is of another network, or empty.
    """
    selection = Selection.load(path)
    modulate(pair.target, pair.baseline, selection, 1.0)  # refuses another network's
    if not len(selection):
        raise ParamattrError(
            f"selection {path} is empty: expected at least one filter; see 'paramattr blindsr mask "
            "--out DIR', which writes selections"
        )
    return selection


def check_output(path: Path, image: Path) -> None:
    """Refuse a file that an image cannot be written to.

    Raises:
        ParamattrError: for an unknown ending, the input itself, or a folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ParamattrError(
            f"output {path} does not end as an image does: expected one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    if path.is_dir() or path.resolve() == image.resolve():
        raise ParamattrError(
            f"output {path} is {'a folder' if path.is_dir() else 'the input itself'}: give another "
            "file (--out)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)

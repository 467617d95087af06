"""When can FAIG be trusted? Pairs of networks that nobody here trained.

waifu2x's upscalers before (UP2X) and after they were fine-tuned for JPEG noise (0X to 3X). Units
are found on one folder of photographs and edits judged on another, as JPEG and clean. Every edit's
loss is a share of what the fine-tuning gained on JPEG, in dB. A run that was cut resumes from
`--folder`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from benchmarks.benchmark import Row, say, start
from benchmarks.environment import RESULTS
from benchmarks.kept import Kept
from benchmarks.real_pair import FAMILIES, Pair
from benchmarks.waifu2x import LEVELS

KINDS = ("curve", "rankings", "retrained", "channels", "edits", "layers")
"""What is measured of a pair whose units are edited, in this order."""


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        find: folder of photographs that train curves and units, and find units.
        judge: folder of photographs that judge edits.
        quality: of JPEG.
        edits: pairs whose units are found and edited, `FAMILY:BEFORE:AFTER`; they get a curve.
        curves: other pairs that get a curve.
        judged: sides of the inputs that edits are judged on and units found, by family.
        trained: sides of the inputs that train curves and units.
        finding: photographs that find the units.
        steps: that train a curve.
        nodes: of FAIG.
        units: kinds of units.
        shares: of the units that are exchanged.
        near: places on the curve whose values are taken in place of the baseline's.
        retrained: shares of the units that are trained.
        training: steps that train them.
        rate: of that training.
        draws: of random units.
        folder: of what is kept of a run that was cut.
    """

    find: Path
    judge: Path
    quality: int = 30
    edits: tuple[str, ...] = ("PHOTO:UP2X:3X", "PHOTO:UP2X:1X", "PHOTO:0X:1X")
    curves: tuple[str, ...] = ("PHOTO:UP2X:0X", "PHOTO:UP2X:2X", "PHOTO:0X:3X", "CUNET:UP2X:3X")
    judged: tuple[float, ...] = (40, 64)
    trained: tuple[float, ...] = (32, 56)
    finding: int = 16
    steps: int = 200
    nodes: int = 4
    units: tuple[str, ...] = ("kernel", "output_channel")
    shares: tuple[float, ...] = (0.01, 0.05)
    near: tuple[float, ...] = (0.25, 0.5)
    retrained: tuple[float, ...] = (0.001, 0.01)
    training: int = 60
    rate: float = 1e-3
    draws: int = 2
    folder: Path = RESULTS / "local" / "real_pairs"


def run(config: Config) -> Iterator[dict[str, list[Row]]]:
    """Measure paths, curves, rankings and edits, pair after pair."""
    stamp = {key: str(value) for key, value in asdict(config).items()}
    kept = Kept(config.folder, stamp)
    found: dict[str, list[Row]] = {}
    for pair, key, rows in _measured(config, kept):
        found.setdefault(key, []).extend(say({"pair": pair, **row}) for row in rows)
        yield found


def _measured(config: Config, kept: Kept) -> Iterator[tuple[str, str, list[Row]]]:
    photo, cunet = (_names(family) for family in FAMILIES)
    pairs = {name: Pair(name, config) for name in (*photo, *cunet)}
    tasks = [("line", name) for name in photo]
    for name in config.edits:
        tasks += [(kind, name) for kind in KINDS]
    tasks += [("unlearned", name) for name in config.curves if name in photo]
    tasks += [("line", name) for name in cunet if "UP2X" in name]
    tasks += [("curve", name) for name in config.curves]
    for kind, name in tasks:
        measure = {
            "line": pairs[name].line_rows,
            "curve": pairs[name].curve_rows,
            "rankings": pairs[name].ranking_rows,
            "retrained": pairs[name].retrained_rows,
            "unlearned": pairs[name].unlearned_rows,
            "edits": pairs[name].edit_rows,
            "layers": pairs[name].layer_rows,
            "channels": pairs[name].channel_rows,
        }[kind]
        key = {"line": "paths", "curve": "paths", "unlearned": "retrained"}.get(kind, kind)
        yield name, key, kept.rows(f"{kind} {name}", measure)


def _names(family: str) -> list[str]:
    """Name every two levels of a family, the one that was tuned less first."""
    return [f"{family}:{a}:{b}" for a, b in combinations(LEVELS, 2)]


if __name__ == "__main__":
    start(Config, run)

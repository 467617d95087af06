"""Time to an edit that works as well as the published procedure's, and time at the same rule.

Both rankings (deblurring and denoising) of the same photographs, in one run: by the published
procedure at its 100 left points and at 8 Gauss-Legendre nodes, and by paramattr at the same 8 nodes
and at one node in the middle of the path, in float32 and, where the hardware computes in it, in
mixed bfloat16. The top 1% of each ranking is masked, and on held-out photographs the output moves:
`own` is by how much on the function's own inputs (squared difference of gradient maps, times 1000),
`own_over_other` how many times as much as on the other function's. More of either is better. An
edit works as well as the published procedure's where neither number, for neither function, lies
below that one's 95% bootstrap interval over the held-out photographs.

Everything runs on one thread, the ways in turn. Times are medians, in seconds and in CPU seconds of
the process; speedups are of CPU seconds, which other work on the machine changes less. The 100
points run once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_attribution import contrasted, overlaps
from benchmarks.benchmark import Row, say, start
from benchmarks.published_procedure import published_procedure
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.mask.experiment import MaskCurves, mask_curves
from blind_sr.models.outputs import by_plane, restore
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from blind_sr.training.recipe import fast_precision
from paramattr import FAIG, Curve, Scores, UnitIndex
from paramattr.quadrature import Rule, gauss_legendre, riemann_left, riemann_middle

SAME, POINTS = 8, 100
RESAMPLES = 2000
Rankings = dict[str, Scores]


@dataclass(frozen=True)
class Config:
    held: Path
    images: Path | None = None
    network: str = "srresnet"
    crop: int = 32
    rounds: int = 5
    pct: float = 1.0


@dataclass(frozen=True)
class Way:
    """One way to both rankings.

    Attributes:
        who: whose procedure.
        rule: on the path.
        dtype: what convolutions compute in.
        rounds: how often it is timed.
        rank: makes both rankings.
    """

    who: str
    rule: Rule
    dtype: str
    rounds: int
    rank: Callable[[], Rankings]


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Let the ways take turns, then mask what they found; a row per way."""
    torch.set_num_threads(1)
    setting = Setting(config.network, images=config.images, crop=config.crop)
    held = Setting(config.network, images=config.held, crop=config.crop).load_photographs()
    pair, photographs = setting.load_pair(), setting.load_photographs()
    ways = _ways(pair, photographs, config.rounds)
    rows, found = _timed(ways, len(photographs.high)), dict[str, Rankings]()
    for row, (label, rankings) in rows:
        found[label] = rankings
        say(row)
    outputs = restore(pair.target, held)
    of_all = {label: {f: [one] for f, one in both.items()} for label, both in found.items()}
    drawn = mask_curves(pair, held, of_all, [config.pct], outputs)
    whole = by_plane(held)[""]
    first, every = next(iter(found)), [row for row, _ in rows]
    for row, (label, both) in rows:
        row["overlap"] = overlaps(both, found[first])
        row["effects"] = {f: _effect(drawn, label, f, config.pct / 100, whole) for f in MASKS}
        row["equal_effect"] = _is_equal(row["effects"], every[0]["effects"])
        say({"way": label, **row["effects"], "equal_effect": row["equal_effect"]})
    yield {
        "network": config.network,
        "images": photographs.names,
        "held_out": held.names,
        "crop": config.crop,
        "pct": config.pct,
        "threads": torch.get_num_threads(),
        **_speedups(every),
        "rows": every,
    }


def _ways(pair: Pair, photographs: Photographs, rounds: int) -> list[Way]:
    index = UnitIndex.of(pair.target, "kernel")
    loaders = {condition: photographs.pairs(condition) for condition in MASKS}

    def published(rule: Rule) -> Callable[[], Rankings]:
        def rank() -> Rankings:
            found = published_procedure(pair, photographs, rule).scores
            return {f: Scores(index, values) for f, values in found.items()}

        return rank

    def ours(rule: Rule, dtype: torch.dtype | None = None) -> Callable[[], Rankings]:
        faig = FAIG(pair.target, pair.baseline, dtype=dtype)
        return lambda: contrasted(faig.score(loaders, reducer="kernel", method=rule))

    left, gauss, middle = riemann_left(POINTS), gauss_legendre(SAME), riemann_middle(1)
    ways = [
        Way("published", left, "float32", 1, published(left)),
        Way("published", gauss, "float32", min(rounds, 3), published(gauss)),
        Way("paramattr", gauss, "float32", min(rounds, 3), ours(gauss)),
        Way("paramattr", middle, "float32", rounds, ours(middle)),
    ]
    if fast_precision("cpu") == "bfloat16":
        rank = ours(middle, torch.bfloat16)
        ways.append(Way("paramattr", middle, "bfloat16", rounds, rank))
    return ways


def _timed(ways: list[Way], photographs: int) -> list[tuple[Row, tuple[str, Rankings]]]:
    for way in ways[2:]:
        way.rank()  # once, to warm up
    seconds: dict[int, list[float]] = {number: [] for number in range(len(ways))}
    busy: dict[int, list[float]] = {number: [] for number in range(len(ways))}
    found: dict[int, Rankings] = {}
    for turn in range(max(way.rounds for way in ways)):
        for number, way in enumerate(ways):
            if turn < way.rounds:
                wall, cpu = time.perf_counter(), time.process_time()
                found[number] = way.rank()
                seconds[number].append(time.perf_counter() - wall)
                busy[number].append(time.process_time() - cpu)
    rows = []
    for number, way in enumerate(ways):
        nodes, twice = len(way.rule.nodes), 1 + (way.who == "published")
        row: Row = {
            "who": way.who,
            "rule": way.rule.name,
            "nodes": nodes,
            "dtype": way.dtype,
            "photographs": photographs,
            "gradients": nodes * photographs * len(MASKS) * twice,
            "rounds": way.rounds,
            "seconds": statistics.median(seconds[number]),
            "cpu_seconds": statistics.median(busy[number]),
        }
        label = f"{way.who}, {way.rule.name} {nodes}, {way.dtype}"
        rows.append((row, (label, found[number])))
    return rows


def _effect(
    drawn: MaskCurves, label: str, function: str, fraction: float, whole: slice
) -> dict[str, Any]:
    """Measure what masking a ranking's filters does, with intervals over the photographs."""
    other = next(mask for mask in MASKS if mask != function)
    own, beside = (
        _of_photographs(drawn[label, function, condition].on(whole), fraction)
        for condition in (function, other)
    )
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(own), (RESAMPLES, len(own)), generator=draw)
    resampled = own[chosen].mean(1), beside[chosen].mean(1)
    return {
        "own": float(own.mean()),
        "own_interval": _interval(resampled[0]),
        "own_over_other": float(own.mean() / beside.mean()),
        "own_over_other_interval": _interval(resampled[0] / resampled[1]),
    }


def _of_photographs(curve: Curve, fraction: float) -> Tensor:
    place = min(range(len(curve.fractions)), key=lambda n: abs(curve.fractions[n] - fraction))
    return curve.values[place].double()


def _interval(drawn: Tensor) -> list[float]:
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return [float(end) for end in drawn.quantile(ends)]


def _is_equal(effects: dict[str, Any], published: dict[str, Any]) -> bool:
    """Say whether no number of an edit lies below the published procedure's interval."""
    return all(
        effects[f][what] >= published[f][f"{what}_interval"][0]
        for f in MASKS
        for what in ("own", "own_over_other")
    )


def _speedups(rows: list[Row]) -> Row:
    points, same, alike, *middles = rows
    found: Row = {"speedup_same_rule": same["cpu_seconds"] / alike["cpu_seconds"]}
    for key, several in (
        ("speedup_equal_effect", middles),
        ("speedup_equal_effect_float32", middles[:1]),
    ):
        equal = [row for row in several if row["equal_effect"]]
        for clock, end in (("cpu_seconds", ""), ("seconds", "_wall")):
            best = min((row[clock] for row in equal), default=None)
            found[key + end] = points[clock] / best if best else None
    return found


if __name__ == "__main__":
    start(Config, run)

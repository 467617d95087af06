"""Wall time to a ranking of given quality, against the procedure as it was published.

Both rankings (deblurring and denoising) of all photographs are made by the published procedure, by
paramattr at several numbers of nodes, in float32 and, where the hardware computes in it, in mixed
bfloat16, and by Captum's integrated gradients over the weights, in one run. Quality is the mean
over both rankings of the chance-corrected overlap of the top 1% with a converged ranking (48
Gauss-Legendre nodes in float32), and the mean relative residual of completeness, against the
objective's change in float32. A time is the median of three runs, those of the 100 left points, of
`Adaptive` and of Captum aside, which are long and run once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.benchmark import Row, say, start
from benchmarks.published_procedure import published_procedure
from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from blind_sr.training.recipe import fast_precision
from paramattr import FAIG, Adaptive, Scores, UnitIndex, agreement, contrast, squared_error
from paramattr.integration.integrals.adaptive import Spent
from paramattr.methods.captum import captum_over_weights
from paramattr.quadrature import Rule, gauss_legendre

CONVERGED, SAME, CAPTUM = 48, 8, 8
RUNS = 3
NODES = {None: (3, 4, 5, 6, 7, 8, 12), torch.bfloat16: (4, 5, 6, 7, 8, 12, 16)}
RTOLS = (1e-3,)
WITHIN = 0.005


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    network: str = "srresnet"
    crop: int = 64
    workers: int = torch.get_num_threads()


def run(config: Config) -> dict[str, Any]:
    """Measure every way to the two rankings; a row per way."""
    setting = Setting(config.network, images=config.images, crop=config.crop)
    pair, photographs = setting.load_pair(), setting.load_photographs()
    FAIG(pair.target, pair.baseline).score(photographs.pairs("blur")[:1], reducer="kernel")  # warm
    converged, _ = _ranked(pair, photographs, n_steps=CONVERGED)
    rows = [say(_row(converged, *way)) for way in _ways(pair, photographs, config.workers)]
    return {
        "network": config.network,
        "images": photographs.names,
        "crop": config.crop,
        "workers": config.workers,
        **_speedups(rows),
        "rows": rows,
    }


def _ways(pair: Pair, photographs: Photographs, workers: int) -> Iterator[tuple[Any, ...]]:
    """Take every way: what `_row` takes."""
    index = UnitIndex.of(pair.target, "kernel")
    for rule, label in ((None, "100 left points"), (gauss_legendre(SAME), f"{SAME} Gauss nodes")):
        yield ("published", label, *_published(pair, photographs, index, rule))
    half = fast_precision("cpu") == "bfloat16"
    for dtype, several in NODES.items():
        for n in several if dtype is None or half else ():
            label = f"{n} Gauss nodes" + (", bfloat16" if dtype else "")
            yield ("paramattr", label, *_ours(pair, photographs, workers, dtype, n_steps=n), n)
    alone = _ours(pair, photographs, 1, n_steps=SAME)
    yield ("paramattr", f"{SAME} nodes, one worker", *alone, SAME)
    for rtol in RTOLS:
        yield ("paramattr", f"adaptive, rtol {rtol:g}", *_adaptive(pair, photographs, rtol))
    yield ("Captum", f"{CAPTUM} Gauss nodes", *_captum(pair, photographs, index))


def _row(
    converged: dict[str, Scores],
    who: str,
    setting: str,
    ranked: dict[str, Scores],
    seconds: float,
    residual: float | None = None,
    evaluations: float | None = None,
) -> Row:
    return {
        "who": who,
        "setting": setting,
        "seconds": seconds,
        "top1_overlap": mean_overlap(ranked, converged),
        **{f"top1_overlap_{f}": one for f, one in overlaps(ranked, converged).items()},
        "residual": residual,
        "evaluations_a_sample": evaluations,
    }


def _speedups(rows: list[Row]) -> Row:
    published, same = rows[0], rows[1]
    ours = {row["setting"]: row for row in rows if row["who"] == "paramattr"}
    equal = _fastest(rows, published["top1_overlap"])
    near = _fastest(rows, published["top1_overlap"] - WITHIN)
    alike, alone = ours[same["setting"]], ours[f"{SAME} nodes, one worker"]
    return {
        "speedup_at_equal_quality": published["seconds"] / equal["seconds"] if equal else None,
        "speedup_within_0.005": published["seconds"] / near["seconds"] if near else None,
        "speedup_same_rule": same["seconds"] / alike["seconds"],
        "speedup_same_rule_one_worker": same["seconds"] / alone["seconds"],
        **{
            key: {"ours": equal[key] if equal else None, "published": published[key]}
            for key in ("top1_overlap", "residual")
        },
        "settings": {
            "equal_quality": equal and equal["setting"],
            "within_0.005": near and near["setting"],
            "same_rule": alike["setting"],
            "converged": f"{CONVERGED} Gauss nodes",
        },
    }


def _published(
    pair: Pair, photographs: Photographs, index: UnitIndex, rule: Rule | None
) -> tuple[dict[str, Scores], float, float]:
    runs = [published_procedure(pair, photographs, rule) for _ in range(RUNS if rule else 1)]
    ranked = {f: Scores(index, values) for f, values in runs[0].scores.items()}
    residuals = [
        abs(total - float(change)) / abs(float(change))
        for condition, totals in runs[0].totals.items()
        for total, change in zip(totals, _changes(pair, photographs, condition), strict=True)
    ]
    seconds = statistics.median(found.seconds for found in runs)
    return ranked, seconds, sum(residuals) / len(residuals)


def _ranked(
    pair: Pair,
    photographs: Photographs,
    workers: int = 1,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> tuple[dict[str, Scores], float]:
    faig = FAIG(pair.target, pair.baseline, workers=workers, dtype=dtype)
    started = time.perf_counter()
    plain = {
        condition: faig.score(photographs.pairs(condition), reducer="kernel", **options)
        for condition in MASKS
    }
    ranked = contrasted(plain)
    return ranked, time.perf_counter() - started


def _ours(
    pair: Pair,
    photographs: Photographs,
    workers: int,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> tuple[dict[str, Scores], float, float]:
    """Rank several times: the ranking, always the same, the median of the seconds, the residual."""
    runs = [_ranked(pair, photographs, workers, dtype, **options) for _ in range(RUNS)]
    seconds = statistics.median(seconds for _, seconds in runs)
    return runs[0][0], seconds, _residual(pair, photographs, dtype, options)


def _adaptive(
    pair: Pair, photographs: Photographs, rtol: float
) -> tuple[dict[str, Scores], float, float, float]:
    faig = FAIG(pair.target, pair.baseline)
    started, plain, spent = time.perf_counter(), {}, list[Spent]()
    for condition in MASKS:
        samples = photographs.pairs(condition)
        plain[condition] = faig.score(samples, reducer="kernel", method=Adaptive(rtol=rtol))
        spent += faig.spent
    ranked = contrasted(plain)
    seconds = time.perf_counter() - started
    residual = sum(abs(one.residual) for one in spent) / len(spent)
    return ranked, seconds, residual, sum(one.evaluations for one in spent) / len(spent)


def _residual(
    pair: Pair, photographs: Photographs, dtype: torch.dtype | None, options: dict[str, Any]
) -> float:
    """Give the mean relative residual of the rule, which is not part of any ranking's time."""
    faig, residuals = FAIG(pair.target, pair.baseline, dtype=dtype), []
    for condition in MASKS:
        changes = _changes(pair, photographs, condition)
        for sample, change in zip(photographs.pairs(condition), changes, strict=True):
            attributions = faig.attribute(*sample, **options)
            total = sum(float(a.sum(dtype=torch.float64)) for a in attributions.values())
            residuals.append(abs(total / float(change) - 1))
    return statistics.fmean(residuals)


@torch.no_grad()
def _changes(pair: Pair, photographs: Photographs, condition: str) -> list[Tensor]:
    return [
        squared_error(pair.baseline(low), high) - squared_error(pair.target(low), high)
        for low, high in photographs.pairs(condition)
    ]


def _captum(
    pair: Pair, photographs: Photographs, index: UnitIndex
) -> tuple[dict[str, Scores], float]:
    started, plain = time.perf_counter(), {}
    for condition in MASKS:
        sums = torch.zeros(len(index), dtype=torch.float64)
        for low, high in photographs.pairs(condition):
            found = captum_over_weights(pair.target, pair.baseline, low, high, n_steps=CAPTUM)
            sums += index.reduce({name: value.abs() for name, value in found.items()})
        plain[condition] = Scores(index, sums / len(photographs.high))
    return contrasted(plain), time.perf_counter() - started


def contrasted(plain: dict[str, Scores]) -> dict[str, Scores]:
    """Set each condition's scores against the other's: the rankings of both functions."""
    blur, noise = plain["blur"], plain["noise"]
    return {"blur": contrast(blur, noise), "noise": contrast(noise, blur)}


def overlaps(found: dict[str, Scores], converged: dict[str, Scores]) -> dict[str, float]:
    """Give each function's chance-corrected overlap of the top 1%."""
    return {f: agreement(found[f], converged[f], fraction=0.01).overlap for f in MASKS}


def mean_overlap(found: dict[str, Scores], converged: dict[str, Scores]) -> float:
    """Give the mean of `overlaps` over both functions."""
    return statistics.fmean(overlaps(found, converged).values())


def _fastest(rows: list[Row], overlap: float) -> Row | None:
    """Give the fastest row of a precision's fewest nodes from which on every number is enough."""
    fewest: dict[str, Row] = {}
    for precision, several in _by_precision(rows).items():
        for row in sorted(several, key=lambda row: -row["evaluations_a_sample"]):
            if row["top1_overlap"] < overlap:
                break
            fewest[precision] = row
    return min(fewest.values(), key=lambda row: row["seconds"], default=None)


def _by_precision(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        rule, _, precision = row["setting"].partition(", ")
        if row["who"] == "paramattr" and rule.endswith("Gauss nodes"):
            found.setdefault(precision, []).append(row)
    return found


if __name__ == "__main__":
    start(Config, run)

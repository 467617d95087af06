"""Wall time to a ranking of given quality, against the procedure as it was published.

    python -m benchmarks.bench_attribution [--network N] [--images DIR] [--crop N] [--name NAME]

Both rankings (deblurring and denoising) of all photographs are made by the published procedure, by
paramattr at several numbers of nodes, and by Captum's integrated gradients over the weights, in one
run. Quality is the mean over both rankings of the chance-corrected overlap of the top 1% with a
converged ranking (48 Gauss-Legendre nodes), and the mean relative residual of completeness.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import write_result
from benchmarks.published_procedure import published_procedure
from blind_sr.study import MASKS, Pair, Photographs, load_pair, load_photographs
from paramattr import FAIG, Adaptive, Scores, UnitIndex, agreement, contrast, squared_error
from paramattr.attribution.captum_weights import captum_over_weights
from paramattr.quadrature import gauss_legendre

CONVERGED, SAME, CAPTUM = 48, 8, 8
NODES = (3, 4, 5, 6, 8, 10, 12, 16)
WITHIN = 0.005


def main(arguments: list[str] | None = None) -> None:
    """Measure every way to the two rankings, print a line each, keep all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--name", default="attribution")
    options = parser.parse_args(arguments)
    pair = load_pair(options.network, crop=options.crop)
    photographs = load_photographs(options.images, crop=options.crop)
    FAIG(pair.target, pair.baseline).score(photographs.pairs("blur")[:1], reducer="kernel")  # warm
    index = UnitIndex.of(pair.target, "kernel")

    converged, _, _ = _ours(pair, photographs, n_steps=CONVERGED)
    rows: list[dict[str, Any]] = []

    def add(
        who: str, setting: str, ranked: dict[str, Scores], seconds: float, residual: float
    ) -> None:
        overlaps = {f: agreement(ranked[f], converged[f], fraction=0.01).overlap for f in MASKS}
        row = {
            "who": who,
            "setting": setting,
            "seconds": seconds,
            "top1_overlap": sum(overlaps.values()) / len(overlaps),
            **{f"top1_overlap_{f}": overlap for f, overlap in overlaps.items()},
            "residual": residual,
        }
        rows.append(row)
        print(
            f"{who:>10} {setting:>20}: {seconds:7.1f} s, overlap {row['top1_overlap']:.4f}, "
            f"residual {100 * residual:.3f}%",
            flush=True,
        )

    for rule, label in ((None, "100 left points"), (gauss_legendre(SAME), f"{SAME} Gauss nodes")):
        found = published_procedure(pair, photographs, rule)
        ranked = {f: Scores(index, values) for f, values in found.scores.items()}
        residual = sum(map(abs, found.residuals)) / len(found.residuals)
        add("published", label, ranked, found.seconds, residual)
    for n in NODES:
        add("paramattr", f"{n} Gauss nodes", *_ours(pair, photographs, n_steps=n))
    for rtol in (1e-2, 3e-3, 1e-3):
        label = f"adaptive, rtol {rtol:g}"
        add("paramattr", label, *_ours(pair, photographs, method=Adaptive(rtol=rtol)))
    add("Captum", f"{CAPTUM} Gauss nodes", *_captum(pair, photographs, index))

    published, same = rows[0], rows[1]
    ours = [row for row in rows if row["who"] == "paramattr"]
    equal = _fastest(ours, published["top1_overlap"])
    near = _fastest(ours, published["top1_overlap"] - WITHIN)
    alike = next(row for row in ours if row["setting"] == same["setting"])
    result = {
        "network": options.network,
        "images": photographs.names,
        "crop": options.crop,
        "speedup_at_equal_quality": published["seconds"] / equal["seconds"] if equal else None,
        "speedup_within_0.005": published["seconds"] / near["seconds"] if near else None,
        "speedup_same_rule": same["seconds"] / alike["seconds"],
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
        "rows": rows,
    }
    for key in ("speedup_at_equal_quality", "speedup_within_0.005", "speedup_same_rule"):
        print(f"{key}: {result[key]}")
    images = "" if options.images is None else f" --images {options.images.name}"
    command = (
        f"python -m benchmarks.bench_attribution --network {options.network}{images} "
        f"--crop {options.crop}"
    )
    print(write_result(options.name, command, result))


def _ours(
    pair: Pair, photographs: Photographs, **options: Any
) -> tuple[dict[str, Scores], float, float]:
    faig = FAIG(pair.target, pair.baseline)
    started = time.perf_counter()
    plain = {
        condition: faig.score(photographs.pairs(condition), reducer="kernel", **options)
        for condition in MASKS
    }
    ranked = _contrasted(plain)
    seconds = time.perf_counter() - started
    residuals = []
    for condition in MASKS:
        for low, high in photographs.pairs(condition):
            attributions, delta = faig.attribute(
                low, high, return_convergence_delta=True, **options
            )
            total = sum(a.sum(dtype=torch.float64) for a in attributions.values())
            residuals.append(abs(float(delta / (total - delta))))
    return ranked, seconds, sum(residuals) / len(residuals)


def _captum(
    pair: Pair, photographs: Photographs, index: UnitIndex
) -> tuple[dict[str, Scores], float, float]:
    started, plain, residuals = time.perf_counter(), {}, []
    for condition in MASKS:
        sums = torch.zeros(len(index), dtype=torch.float64)
        for low, high in photographs.pairs(condition):
            found = captum_over_weights(pair.target, pair.baseline, low, high, n_steps=CAPTUM)
            sums += index.reduce({name: value.abs() for name, value in found.items()})
            with torch.no_grad():
                start, end = (
                    float(squared_error(model(low), high)) for model in (pair.target, pair.baseline)
                )
            total = float(sum(value.sum(dtype=torch.float64) for value in found.values()))
            residuals.append(abs((total - (end - start)) / (end - start)))
        plain[condition] = Scores(index, sums / len(photographs.high))
    ranked = _contrasted(plain)
    return ranked, time.perf_counter() - started, sum(residuals) / len(residuals)


def _contrasted(plain: dict[str, Scores]) -> dict[str, Scores]:
    blur, noise = plain["blur"], plain["noise"]
    return {"blur": contrast(blur, noise), "noise": contrast(noise, blur)}


def _fastest(rows: list[dict[str, Any]], overlap: float) -> dict[str, Any] | None:
    good = [row for row in rows if row["top1_overlap"] >= overlap]
    return min(good, key=lambda row: row["seconds"]) if good else None


if __name__ == "__main__":
    main()

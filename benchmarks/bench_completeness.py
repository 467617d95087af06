"""How far each rule's attributions are from summing to the objective's change.

    python -m benchmarks.bench_completeness [--images DIR] [--crop N] [--count N]

The relative residual of a photograph is |sum of attributions - change| / |change|; the mean over
photographs is reported for each condition, beside the signed one of the sums. All rules are
measured on the first COUNT photographs, since the paper's 100 steps take long, and 8 nodes on all
of them too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.environment import write_result
from blind_sr.study import MASKS, load_pair, load_photographs
from paramattr import FAIG

RULES = (("gausslegendre", 4), ("gausslegendre", 8), ("gausslegendre", 16), ("riemann_left", 100))


def main(arguments: list[str] | None = None) -> None:
    """Measure every rule on every condition, print a line each, keep all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--count", type=int, default=4, help="photographs")
    parser.add_argument("--name", default="completeness")
    options = parser.parse_args(arguments)
    pair = load_pair("srresnet")
    photographs = load_photographs(options.images, crop=options.crop)
    faig = FAIG(pair.target, pair.baseline)
    rows = []
    for condition in MASKS:
        samples = photographs.pairs(condition)
        runs = [(method, n_steps, options.count) for method, n_steps in RULES]
        for method, n_steps, count in [("gausslegendre", 8, len(samples)), *runs]:
            started = time.perf_counter()
            found = []
            for low, high in samples[:count]:
                attributions, delta = faig.attribute(
                    low, high, n_steps=n_steps, method=method, return_convergence_delta=True
                )
                total = sum(a.sum(dtype=torch.float64) for a in attributions.values())
                found.append((float(delta), float(total - delta)))
            rows.append(
                {
                    "condition": condition,
                    "method": method,
                    "n_steps": n_steps,
                    "photographs": min(count, len(samples)),
                    "mean_relative_residual": sum(abs(d / c) for d, c in found) / len(found),
                    "relative_residual_of_sums": sum(d for d, _ in found)
                    / sum(c for _, c in found),
                    "seconds": round(time.perf_counter() - started, 1),
                }
            )
            print(
                f"{condition:>5} {method:>14} {n_steps:3} on {len(found):3}: mean |residual| "
                f"{100 * rows[-1]['mean_relative_residual']:.3f}%, of the sums "
                f"{100 * rows[-1]['relative_residual_of_sums']:+.3f}%, {rows[-1]['seconds']} s",
                flush=True,
            )
    images = "" if options.images is None else f" --images {options.images.name}"
    command = (
        f"python -m benchmarks.bench_completeness{images} --crop {options.crop} "
        f"--count {options.count}"
    )
    print(write_result(options.name, command, {"images": photographs.names, "rows": rows}))


if __name__ == "__main__":
    main()

"""Tab. 2 over targets that were fine-tuned from one baseline with different seeds.

    python -m benchmarks.bench_seeds --weights DIR [--weights DIR ...] [--images DIR] [--name NAME]

A folder holds the pair of one seed, as `paramattr blindsr train --stage target --seed N` writes it;
the bundled pair comes first. Each pair's filters are found and masked anew: mean and standard
deviation over the pairs of the output difference, where the 1% lie, and how far the 1% of two
targets are the same filters (chance-corrected overlap).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.environment import write_result
from blind_sr.rankings import find_filters
from blind_sr.reproducing import PAPER
from blind_sr.study import MASKS, load_pair, load_photographs, mask, quality, restore
from paramattr import agreement

PERCENTS = (1.0, 5.0)


def main(arguments: list[str] | None = None) -> None:
    """Mask the filters of each pair, print a line a pair, then one a cell of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, action="append", default=[], help="may be repeated")
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--name", default="seeds")
    options = parser.parse_args(arguments)
    photographs = load_photographs(options.images, crop=options.crop)
    rows, pairs, found = [], [], []
    for number, folder in enumerate([None, *options.weights]):
        pair = load_pair(options.network, folder, crop=options.crop)
        rankings = find_filters(pair, photographs, PAPER.split(","))
        target = restore(pair.target, photographs)
        masked = mask(pair, photographs, rankings, PERCENTS, target)
        rows += [{**row, "pair": number} for row in masked if row["mask"] == row["input"]]
        own = {function: rankings["faig"][function][0] for function in MASKS}
        found.append(own)
        pairs.append(
            {
                "psnr": quality(target, photographs),
                "depth": {f: scores.top(fraction=0.01).depth() for f, scores in own.items()},
            }
        )
        print(f"pair {number}: {pairs[-1]}", flush=True)
    summary = []
    for key in dict.fromkeys((row["mask"], row["pct"], row["method"]) for row in rows):
        own_rows = [r for r in rows if (r["mask"], r["pct"], r["method"]) == key]
        moments = _moments(row["difference_x1000"] for row in own_rows)
        cell = {"mask": key[0], "pct": key[1], "method": key[2], "difference_x1000": moments}
        summary.append(cell)
        print(f"{key[0]:>5} {key[1]:g}% {key[2]:>16} {moments['mean']:6.2f} ± {moments['sd']:.2f}")
    overlaps = {
        function: _moments(
            agreement(one[function], other[function], fraction=0.01).overlap
            for one, other in combinations(found, 2)
        )
        for function in MASKS
    }
    print(f"overlap of the 1% of two targets: {overlaps}")
    images = "" if options.images is None else f" --images {options.images.name}"
    command = f"python -m benchmarks.bench_seeds --network {options.network}{images}"
    for folder in options.weights:
        command += f" --weights {folder.name}"
    result: dict[str, Any] = {
        "network": options.network,
        "images": photographs.names,
        "crop": options.crop,
        "pairs": pairs,
        "summary": summary,
        "top1_overlap_between_pairs": overlaps,
        "rows": rows,
    }
    print(write_result(options.name, f"{command} --crop {options.crop}", result))


def _moments(values: Iterable[float]) -> dict[str, float]:
    several = list(values)
    return {
        "mean": statistics.fmean(several) if several else float("nan"),
        "sd": statistics.stdev(several) if len(several) > 1 else 0.0,
    }


if __name__ == "__main__":
    main()

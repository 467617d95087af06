"""How many photographs and nodes it takes until the top 1% of the filters no longer changes.

    python -m benchmarks.bench_stability [--images DIR] [--crop N] [--count N] [--name NAME]

Nodes: Gauss-Legendre rules on the first COUNT photographs, against 32 nodes. Photographs: random
subsets of all, at 8 nodes, against all of them. Seeds: the same photographs with another draw of
the noise. All are chance-corrected overlaps of the top 1%.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.environment import write_result
from blind_sr.study import MASKS, load_pair, load_photographs
from paramattr import FAIG, Scores, agreement, contrast, stability, subset_means

NODES = (1, 2, 4, 8, 16, 32)
STEPS = 8


def main(arguments: list[str] | None = None) -> None:
    """Score once a photograph and a rule, then compare the rankings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--count", type=int, default=4, help="photographs for the nodes")
    parser.add_argument("--name", default="stability")
    options = parser.parse_args(arguments)
    pair = load_pair("srresnet")
    faig = FAIG(pair.target, pair.baseline)

    def each(seed: int, n_steps: int, count: int | None = None) -> dict[str, list[Scores]]:
        photographs = load_photographs(options.images, crop=options.crop, seed=seed)
        plain = {
            condition: [
                faig.score([sample], reducer="kernel", n_steps=n_steps)
                for sample in photographs.pairs(condition)[:count]
            ]
            for condition in MASKS
        }
        both = list(zip(plain["blur"], plain["noise"], strict=True))
        print(f"scored {len(both)} photographs at {n_steps} nodes, seed {seed}", flush=True)
        return {
            "blur": [contrast(b, n) for b, n in both],
            "noise": [contrast(n, b) for b, n in both],
        }

    def mean(several: list[Scores]) -> Scores:
        return subset_means(several, [len(several)])[len(several)][0]

    nodes = {n: each(0, n, options.count) for n in NODES}
    samples = each(0, STEPS)
    again = each(1, STEPS)
    size = len(samples["blur"])
    sizes = [n for n in (1, 2, 3, 4, 6, 8, 10, 12) if n < size]
    rows = []
    for function in MASKS:
        found = {
            "nodes": stability({n: mean(own[function]) for n, own in nodes.items()}),
            "photographs": stability(
                subset_means(samples[function], sizes, repeats=10),
                reference=mean(samples[function]),
            ),
            "seeds": stability(
                {"another draw of the noise": mean(again[function])},
                reference=mean(samples[function]),
            ),
        }
        for varied, result in found.items():
            for setting, overlaps in result.overlaps.items():
                rows.append(
                    {
                        "function": function,
                        "varied": varied,
                        "setting": setting,
                        "overlap_mean": sum(overlaps) / len(overlaps),
                        "overlap_min": min(overlaps),
                        "rankings": len(overlaps),
                    }
                )
                print(
                    f"{function:>5} {varied:>11} {setting!s:>26}: overlap "
                    f"{rows[-1]['overlap_mean']:.3f}, at least {rows[-1]['overlap_min']:.3f}"
                )
            print(f"{function:>5} {varied:>11}: enough at 95% is {result.enough}")
        first, second = samples[function][: size // 2], samples[function][size // 2 :]
        halves = agreement(mean(first), mean(second))
        print(f"{function:>5} two halves of the photographs: {halves}")
        rows.append({"function": function, "varied": "halves", **halves._asdict()})
    images = "" if options.images is None else f" --images {options.images.name}"
    command = (
        f"python -m benchmarks.bench_stability{images} --crop {options.crop} "
        f"--count {options.count} --name {options.name}"
    )
    print(write_result(options.name, command, {"steps": STEPS, "rows": rows}))


if __name__ == "__main__":
    main()

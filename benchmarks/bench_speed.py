"""Time of one photograph's two rankings, published and ours in turn, the best of several rounds.

    python -m benchmarks.bench_speed [--network N] [--crop N] [--rounds N] [--name NAME]

`bench_attribution` runs each way once over all photographs, which says what the rankings are worth;
on a machine with other work its times stray. Here the ways take turns on the first photograph. The
100 points of the published procedure are not run: they cost 12.5 times its 8.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.environment import write_result
from benchmarks.published_procedure import published_procedure
from blind_sr.study import MASKS, load_pair, load_photographs
from paramattr import FAIG, contrast
from paramattr.quadrature import gauss_legendre

SAME = 8
NODES = (4, 5, 6, 8)


def main(arguments: list[str] | None = None) -> None:
    """Let the ways take turns, print and keep the best time of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="speed")
    options = parser.parse_args(arguments)
    pair = load_pair(options.network, crop=options.crop)
    one = load_photographs(None, crop=options.crop).only(0)
    faig = FAIG(pair.target, pair.baseline)

    def ours(nodes: int) -> float:
        started = time.perf_counter()
        blur, noise = (faig.score(one.pairs(c), reducer="kernel", n_steps=nodes) for c in MASKS)
        contrast(blur, noise), contrast(noise, blur)
        return time.perf_counter() - started

    best = {"published": float("inf"), **{str(n): float("inf") for n in NODES}}
    ours(1)
    for _ in range(options.rounds):
        found = published_procedure(pair, one, gauss_legendre(SAME)).seconds
        best["published"] = min(best["published"], found)
        for n in NODES:
            best[str(n)] = min(best[str(n)], ours(n))
    whole = best["published"] * 100 / SAME
    result = {
        "network": options.network,
        "crop": options.crop,
        "rounds": options.rounds,
        "seconds": best,
        "speedup_same_rule": best["published"] / best[str(SAME)],
        "speedup_over_100_points": {str(n): whole / best[str(n)] for n in NODES},
    }
    print(result)
    command = (
        f"python -m benchmarks.bench_speed --network {options.network} --crop {options.crop} "
        f"--rounds {options.rounds}"
    )
    print(write_result(options.name, command, result))


if __name__ == "__main__":
    main()

"""Time of one photograph's two rankings, published and ours in turn, the best of several rounds.

`bench_attribution` runs each way once over all photographs, which says what the rankings are worth;
on a machine with other work its times stray. Here the ways take turns on the first photograph. The
100 points of the published procedure are not run: they cost 12.5 times its 8.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.benchmark import say, start
from benchmarks.published_procedure import published_procedure
from blind_sr.labels import MASKS
from blind_sr.setting import Setting
from paramattr import FAIG, contrast
from paramattr.quadrature import gauss_legendre

SAME = 8
NODES = (4, 5, 6, 8)


@dataclass(frozen=True)
class Config:
    network: str = "srresnet"
    crop: int = 64
    rounds: int = 5


def run(config: Config) -> dict[str, Any]:
    """Let the ways take turns; a row per way, with its best time."""
    setting = Setting(config.network, crop=config.crop)
    pair, one = setting.load_pair(), setting.load_photographs().only(0)
    faig = FAIG(pair.target, pair.baseline)

    def ours(nodes: int) -> float:
        started = time.perf_counter()
        blur, noise = (faig.score(one.pairs(c), reducer="kernel", n_steps=nodes) for c in MASKS)
        contrast(blur, noise), contrast(noise, blur)
        return time.perf_counter() - started

    best = {"published": float("inf"), **{str(n): float("inf") for n in NODES}}
    ours(1)
    for _ in range(config.rounds):
        found = published_procedure(pair, one, gauss_legendre(SAME)).seconds
        best["published"] = min(best["published"], found)
        for n in NODES:
            best[str(n)] = min(best[str(n)], ours(n))
    whole = best["published"] * 100 / SAME
    over = {way: whole / seconds for way, seconds in best.items()}
    rows = [say({"way": w, "seconds": best[w], "over_100_points": over[w]}) for w in best]
    return {
        **vars(config),
        "seconds": best,
        "speedup_same_rule": best["published"] / best[str(SAME)],
        "speedup_over_100_points": {str(n): over[str(n)] for n in NODES},
        "rows": rows,
    }


if __name__ == "__main__":
    start(Config, run)

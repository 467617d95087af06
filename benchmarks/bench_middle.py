"""What integrating along the path buys over one gradient in its middle, as rankings and sums go.

    python -m benchmarks.bench_middle [--network N] [--images DIR] [--crop N] [--name NAME]

Gauss-Legendre rules of 1 node (the middle), 2, 4 and 8, against 48. Overlap is the chance-corrected
one of the top 1% and 5% of the filters with those of 48 nodes, of the mean over the photographs,
with and without the contrast; its interval is a 95% bootstrap interval over the photographs, drawn
alike for both rules. The residual is |sum of attributions - change| / |change|, per photograph.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import write_result
from blind_sr.study import MASKS, load_pair, load_photographs
from paramattr import FAIG, UnitIndex

NODES = (1, 2, 4, 8)
CONVERGED = 48
SHARES = (0.01, 0.05)
RESAMPLES = 200


def main(arguments: list[str] | None = None) -> None:
    """Attribute every photograph by every rule, compare with the finest, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--crop", type=int, default=32)
    parser.add_argument("--name", default="middle")
    options = parser.parse_args(arguments)
    pair = load_pair(options.network, crop=options.crop)
    photographs = load_photographs(options.images, crop=options.crop)
    faig, index = FAIG(pair.target, pair.baseline), UnitIndex.of(pair.target, "kernel")
    scores: dict[tuple[int, str], Tensor] = {}
    residuals: dict[tuple[int, str], Tensor] = {}
    for n in (*NODES, CONVERGED):
        for condition in MASKS:
            scores[n, condition], residuals[n, condition] = attributed(
                faig, index, photographs.pairs(condition), n
            )
        print(f"attributed by {n} nodes", flush=True)

    generator = torch.Generator().manual_seed(0)
    count = len(photographs.names)
    draws = torch.randint(count, (RESAMPLES, count), generator=generator)
    weights = torch.nn.functional.one_hot(draws, count).double().mean(1)  # of each photograph
    rows: list[dict[str, Any]] = []
    for n in NODES:
        for condition in MASKS:
            own = residuals[n, condition]
            rows.append(
                {
                    "condition": condition,
                    "nodes": n,
                    "residual": float(own.mean()),
                    **interval(weights @ own),
                }
            )
            for contrasted in (True, False):
                for share in SHARES:
                    rule, finest = (
                        ranked(scores, nodes, condition, contrasted) for nodes in (n, CONVERGED)
                    )
                    drawn = [overlap(w @ rule, w @ finest, share) for w in weights]
                    rows.append(
                        {
                            "condition": condition,
                            "nodes": n,
                            "contrast": contrasted,
                            "fraction": share,
                            "overlap": overlap(rule.mean(0), finest.mean(0), share),
                            **interval(torch.tensor(drawn)),
                        }
                    )
            for row in rows[-5:]:
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    images = "" if options.images is None else f" --images {options.images.name}"
    command = (
        f"python -m benchmarks.bench_middle --network {options.network}{images} "
        f"--crop {options.crop} --name {options.name}"
    )
    result = {"images": photographs.names, "converged": CONVERGED, "rows": rows}
    print(write_result(options.name, command, {"network": options.network, **result}))


def attributed(
    faig: FAIG, index: UnitIndex, samples: list[tuple[Tensor, Tensor]], n_steps: int
) -> tuple[Tensor, Tensor]:
    """Give each photograph's scores, `(photographs, units)`, and its relative residual."""
    scores, residuals = [], []
    for low, high in samples:
        found, delta = faig.attribute(low, high, n_steps=n_steps, return_convergence_delta=True)
        total = sum(float(a.sum(dtype=torch.float64)) for a in found.values())
        scores.append(index.reduce({name: value.abs() for name, value in found.items()}))
        residuals.append(abs(float(delta)) / abs(total - float(delta)))
    return torch.stack(scores), torch.tensor(residuals, dtype=torch.float64)


def ranked(
    scores: dict[tuple[int, str], Tensor], nodes: int, condition: str, contrasted: bool
) -> Tensor:
    """Give each photograph's scores for a function, the other condition's taken away or not."""
    own = scores[nodes, condition]
    return own - sum(scores[nodes, c] for c in MASKS if c != condition) if contrasted else own


def overlap(one: Tensor, other: Tensor, share: float) -> float:
    """Give the chance-corrected overlap of two rankings' top units, as `paramattr.agreement`."""
    count = round(share * len(one))
    marked = torch.zeros(len(one), dtype=torch.bool)
    marked[one.topk(count).indices] = True
    shared = float(marked[other.topk(count).indices].double().mean())
    chance = count / len(one)
    return (shared - chance) / (1 - chance)


def interval(drawn: Tensor) -> dict[str, float]:
    """Give the middle 95% of what the resamples gave."""
    low, high = drawn.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return {"low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()

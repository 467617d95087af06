"""The same drop, once a lost function and once damage.

    python -m benchmarks.bench_damage [--crop N] [--nodes N] [--name NAME]

The bundled pairs, and a pair that is damaged on purpose: the bundled SRResNet's baseline with the
channels inside each block rescaled, which leaves what it computes as it is and puts broken models
between it and the target. FAIG's contrasted kernels are masked in each; for each drop on the
bundled pair the share of kernels is sought that makes the nearest drop on the damaged one.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.environment import write_result
from blind_sr.measures import output_difference
from blind_sr.study import Pair, Photographs, load_pair, load_photographs
from paramattr import FAIG, compare, contrast, squared_error
from paramattr.faithfulness.masking import Measure

FUNCTIONS = ("blur", "noise")
Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What is masked.

    Attributes:
        crop: side of the low-resolution inputs.
        nodes: of FAIG.
        scales: standard deviations of the logarithm of the channels' factors, a pair for each.
        shares: of the kernels, those of the bundled pairs.
        fine: of the kernels, among which the damaged pair's nearest drop is sought.
    """

    crop: int = 24
    nodes: int = 4
    scales: tuple[float, ...] = (1.0, 1.5)
    shares: tuple[float, ...] = (0.01, 0.05)
    fine: tuple[float, ...] = tuple(k / 1000 for k in (0.1, 0.2, 0.5, 1, 2, *range(3, 13), 20, 50))


def run(config: Config) -> list[Row]:
    """Give a row per pair, function and share; the damaged pair's are matched by their drop."""
    photographs = load_photographs(crop=config.crop)
    pairs = {name: load_pair(name, crop=config.crop) for name in ("srresnet", "srcnn")}
    rows = []
    for name, pair in pairs.items():
        rows += [{"pair": name, **row} for row in _rows(pair, photographs, config, config.shares)]
    bundled = [row for row in rows if row["pair"] == "srresnet"]
    for scale in config.scales:
        baseline = rescaled(pairs["srresnet"].baseline, scale)
        damaged = replace(pairs["srresnet"], baseline=baseline)
        every = _rows(damaged, photographs, config, config.fine)
        for row in bundled:
            alike = [other for other in every if other["function"] == row["function"]]
            nearest = min(alike, key=lambda other, row=row: abs(other["drop"] - row["drop"]))  # type: ignore[misc]
            rows.append({"pair": f"srresnet, rescaled by {scale:g}", **nearest})
    return rows


def rescaled(model: nn.Module, scale: float) -> nn.Module:
    """Multiply the channels inside each block by positive numbers and divide them out after it."""
    other, draw = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in other.get_submodule("body").children():
            first, second = (getattr(block, name) for name in ("conv1", "conv2"))
            factors = torch.randn(first.weight.shape[0], generator=draw).mul(scale).exp()
            first.weight.mul_(factors[:, None, None, None])
            first.bias.mul_(factors)
            second.weight.div_(factors[None, :, None, None])
    return other


def _rows(
    pair: Pair, photographs: Photographs, config: Config, shares: tuple[float, ...]
) -> list[Row]:
    data: Any = {function: photographs.pairs(function) for function in FUNCTIONS}
    faig = FAIG(pair.target, pair.baseline)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = faig.score(data, reducer="kernel", n_steps=config.nodes)
    ranking = {
        "blur": contrast(scores["blur"], scores["noise"]),
        "noise": contrast(scores["noise"], scores["blur"]),
    }
    barriers = {f: faig.path_profile(data[f], n_points=5).barrier for f in FUNCTIONS}
    high = torch.cat(photographs.high)
    inputs = {function: torch.cat(photographs.low[function]) for function in FUNCTIONS}
    found = compare(
        pair.target,
        pair.baseline,
        {"faig": ranking, "random": ranking},  # no random draws are needed here
        {function: _drop(pair.target, x) for function, x in inputs.items()},
        truth={function: _error(x, high) for function, x in inputs.items()},
        fractions=(0.0, *shares),
    )
    drops = {
        (row["function"], row["fraction"]): row["value"]
        for row in found.rows()
        if row["method"] == "faig" and row["function"] == row["measured"]
    }
    warned = any(str(warning.message).startswith("barrier") for warning in caught)
    return [
        {
            "barrier": barriers[row["function"]],
            "warned": warned,
            "drop": drops[row["function"], row["fraction"]],
            **{key: value for key, value in row.items() if key != "method"},
        }
        for row in found.damage(shares)
        if row["method"] == "faig"
    ]


def _drop(target: nn.Module, inputs: Tensor) -> Measure:
    with torch.no_grad():
        outputs = target(inputs)
    return lambda model: 1000 * output_difference(model(inputs), outputs).double()


def _error(inputs: Tensor, high: Tensor) -> Measure:
    return lambda model: squared_error(model(inputs), high)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the rows if they have a name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop", type=int, default=Config.crop)
    parser.add_argument("--nodes", type=int, default=Config.nodes)
    parser.add_argument("--name", help="keep the result as results/NAME.json")
    options = parser.parse_args(arguments)
    rows = run(Config(options.crop, options.nodes))
    for row in rows:
        lost = f"{row['lost_share']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
        print(
            f"{row['pair']:28} {row['function']:6} {100 * row['fraction']:5.2f}%  drop "
            f"{row['drop']:6.2f}  lost {lost:22} x other {row['selectivity']:6.1f}  "
            f"barrier {row['barrier']:.2f} {'warned' if row['warned'] else ''}  "
            f"{row['reason'] or 'no damage'}"
        )
    if options.name:
        command = f"python -m benchmarks.bench_damage --crop {options.crop} --nodes {options.nodes}"
        print(write_result(options.name, command, {"rows": rows}))


if __name__ == "__main__":
    main()

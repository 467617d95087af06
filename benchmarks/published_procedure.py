"""FAIG as it was published, written afresh from the paper: what `bench_attribution` runs against.

For each of the two rankings, each photograph is attributed in both conditions, although the second
ranking is the first with its sign turned; the path is summed at 100 evenly spaced points from the
target on (Eq. 6), and the network is built anew at each of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blind_sr.networks import build
from blind_sr.study import MASKS, Pair, Photographs
from paramattr.quadrature import Rule, riemann_left


@dataclass(frozen=True)
class Published:
    """What the procedure gave.

    Attributes:
        scores: function to one score a filter, layer by layer, row-major over (out, in).
        seconds: of the whole procedure.
        residuals: of each photograph and condition, as it came: the attributions' sum minus the
            objective's change, over that change.
    """

    scores: dict[str, Tensor]
    seconds: float
    residuals: list[float]


def published_procedure(
    pair: Pair, photographs: Photographs, rule: Rule | None = None
) -> Published:
    """Rank the filters for both functions; `rule` takes the place of the 100 points."""
    rule = riemann_left(100) if rule is None else rule
    target, baseline = (
        {name: value.contiguous() for name, value in model.state_dict().items()}
        for model in (pair.target, pair.baseline)
    )
    started = time.perf_counter()
    scores, residuals = {}, []
    for function in MASKS:
        other = next(mask for mask in MASKS if mask != function)
        totals = torch.zeros(0)
        for number, high in enumerate(photographs.high):
            several = []
            for condition in (function, other):
                low = photographs.low[condition][number]
                magnitudes, total = _attribute(pair.network, target, baseline, low, high, rule)
                several.append(magnitudes)
                change = _loss(pair.network, baseline, low, high) - _loss(
                    pair.network, target, low, high
                )
                residuals.append((total - change) / change)
            difference = several[0] - several[1]
            totals = difference if not len(totals) else totals + difference
        scores[function] = totals / len(photographs.high)
    return Published(scores, time.perf_counter() - started, residuals)


def _attribute(
    network: str,
    target: dict[str, Tensor],
    baseline: dict[str, Tensor],
    low: Tensor,
    high: Tensor,
    rule: Rule,
) -> tuple[Tensor, float]:
    sums = {name: torch.zeros_like(value) for name, value in target.items()}
    for alpha, weight in zip(rule.nodes, rule.weights, strict=True):
        model = _model(network, {n: (1 - alpha) * target[n] + alpha * baseline[n] for n in target})
        (model(low) - high).square().sum().backward()
        for name, parameter in model.named_parameters():
            sums[name] += weight * parameter.grad * (baseline[name] - target[name])
    total = float(sum(value.double().sum() for value in sums.values()))
    return _by_filter([value for value in sums.values() if value.ndim == 4]), total


def _by_filter(attributions: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.abs().double().sum((2, 3)).flatten() for value in attributions])


@torch.no_grad()
def _loss(network: str, state: dict[str, Tensor], low: Tensor, high: Tensor) -> float:
    return float((_model(network, state)(low) - high).double().square().sum())


def _model(network: str, state: dict[str, Tensor]) -> torch.nn.Module:
    model = build(network)
    model.load_state_dict(state)
    return model.eval()

"""FAIG as it was published, written afresh from the paper: what `bench_attribution` runs against.

For each of the two rankings, each photograph is attributed in both conditions, although the second
ranking is the first with its sign turned; the path is summed at 100 evenly spaced points from the
target on (Eq. 6), and the network is built anew at each of them, for both conditions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.networks import build
from blind_sr.models.pairs import Pair
from paramattr.quadrature import Rule, riemann_left


@dataclass(frozen=True)
class Published:
    """What the procedure gave.

    Attributes:
        scores: function to one score a filter, layer by layer, row-major over (out, in).
        seconds: of the whole procedure.
        totals: condition to the sum of all attributions of each photograph.
    """

    scores: dict[str, Tensor]
    seconds: float
    totals: dict[str, list[float]]


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
    scores, complete = {}, dict[str, list[float]]()
    for function in MASKS:
        other = next(mask for mask in MASKS if mask != function)
        totals, complete[function] = torch.zeros(0), []
        for number, high in enumerate(photographs.high):
            low = [photographs.low[condition][number] for condition in (function, other)]
            own, others = _attribute(pair.network, target, baseline, low, high, rule)
            complete[function].append(sum(float(value.sum()) for value in own.values()))
            difference = _by_filter(own) - _by_filter(others)
            totals = difference if not len(totals) else totals + difference
        scores[function] = totals / len(photographs.high)
    return Published(scores, time.perf_counter() - started, complete)


def _attribute(
    network: str,
    target: dict[str, Tensor],
    baseline: dict[str, Tensor],
    inputs: Sequence[Tensor],
    high: Tensor,
    rule: Rule,
) -> list[dict[str, Tensor]]:
    sums = [{name: torch.zeros_like(value) for name, value in target.items()} for _ in inputs]
    for alpha, weight in zip(rule.nodes, rule.weights, strict=True):
        model = build(network).to(high.device)
        model.load_state_dict({n: (1 - alpha) * target[n] + alpha * baseline[n] for n in target})
        parameters = dict(model.eval().named_parameters())
        for low, own in zip(inputs, sums, strict=True):
            model.zero_grad()
            (model(low) - high).square().sum().backward()
            for name, value in own.items():
                value += weight * parameters[name].grad
    return [
        {name: value * (baseline[name] - target[name]) for name, value in own.items()}
        for own in sums
    ]


def _by_filter(attributions: Mapping[str, Tensor]) -> Tensor:
    filters = (value for value in attributions.values() if value.ndim == 4)
    return torch.cat([value.abs().double().sum((2, 3)).flatten() for value in filters])

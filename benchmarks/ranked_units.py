"""Every method's ranking of what a network does on JPEG and not on clean photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from paramattr import (
    FAIG,
    BezierPath,
    Scores,
    absolute_change,
    contrast,
    fisher_times_change,
    gradient_times_change,
    weight_magnitude,
)

Batch = tuple[Tensor, Tensor]


def rank_units(
    target: nn.Module,
    baseline: nn.Module,
    curve: BezierPath,
    data: dict[str, list[Batch]],
    units: Sequence[str],
    nodes: int,
) -> dict[str, dict[str, Scores]]:
    """Rank by every method; those that look at data are contrasted.

    Args:
        target: the fine-tuned network.
        baseline: the network before it.
        curve: a path between them.
        data: the own condition first, then the other, to batches.
        units: kinds of units.
        nodes: of the methods that integrate.

    Returns:
        Units, then method, to scores.
    """
    models, kinds = (target, baseline), list(units)
    found: dict[str, Any] = {
        "faig": FAIG(*models).score(data, reducer=kinds, n_steps=nodes),
        "faig, curve": FAIG(*models, path=curve).score(data, reducer=kinds, n_steps=nodes),
        **{
            f"gradient, {at}": gradient_times_change(*models, data, reducer=kinds, at=at)
            for at in ("target", "middle", "baseline")
        },
        "fisher": fisher_times_change(*models, data, reducer=kinds),
    }
    own, other = data
    return {
        kind: {
            **{m: contrast(scores[own][kind], scores[other][kind]) for m, scores in found.items()},
            "faig, no contrast": found["faig"][own][kind],
            "change": absolute_change(*models, reducer=kind),
            "weight": weight_magnitude(target, reducer=kind),
        }
        for kind in kinds
    }

"""Random scores: the control that every method must beat."""

from __future__ import annotations

import torch
from torch import nn

from paramattr.reducers import Reducer, UnitIndex
from paramattr.scores import Scores


def random_scores(model: nn.Module, *, reducer: str | Reducer = "kernel", seed: int = 0) -> Scores:
    """Score each unit by a number drawn evenly from [0, 1).

    Args:
        model: whose units are scored.
        reducer: the units, as in `FAIG.score`.
        seed: of the draw; the global random state is neither used nor changed.

    Returns:
        Scores of all units.

    Raises:
        UnitError: for an unknown reducer.
    """
    index = UnitIndex.of(model, reducer)
    draw = torch.Generator().manual_seed(seed)
    return Scores(index, torch.rand(len(index), generator=draw, dtype=torch.float64))

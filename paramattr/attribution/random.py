"""Random scores: the controls that every method must beat."""

from __future__ import annotations

import torch
from torch import nn

from paramattr.errors import UnitError
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection


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
    return random_scores_of(UnitIndex.of(model, reducer), seed=seed)


def random_scores_of(index: UnitIndex, *, seed: int = 0) -> Scores:
    """Score units that are known already, as `random_scores` does."""
    draw = torch.Generator().manual_seed(seed)
    return Scores(index, torch.rand(len(index), generator=draw, dtype=torch.float64))


def random_within_layers(like: Scores | Selection, *, seed: int = 0) -> Scores:
    """Shuffle a ranking inside each layer: random filters, but as many of each layer.

    The top units of the result hold, layer by layer, as many units as those of the ranking, at
    every fraction; only their positions are random. What is left of a method's lead over this
    control is its choice of units in a layer, and the lead of this control over `random_scores` is
    its choice of layers.

    Args:
        like: scores, or a selection (take `.top(count=len(selection))` of the result).
        seed: of the draw; the global random state is neither used nor changed.

    Returns:
        Scores of the same units. A unit that spans layers counts under its group.

    Raises:
        UnitError: if `like` is neither scores nor a selection.
    """
    if isinstance(like, Selection):
        values = like.chosen.double()
    elif isinstance(like, Scores):
        # Ranks in place of values: ties are broken before the shuffle as `top` breaks them after.
        values = torch.empty(len(like), dtype=torch.float64)
        values[like.rank()] = -torch.arange(len(like), dtype=torch.float64)
    else:
        raise UnitError(
            f"random_within_layers takes Scores or a Selection: found a {type(like).__name__}"
        )
    draw = torch.Generator().manual_seed(seed)
    shuffled, left = values.clone(), torch.ones(len(values), dtype=torch.bool)
    for units in like.index.layers().values():
        own = units[left[units]]
        shuffled[own] = values[own[torch.randperm(len(own), generator=draw)]]
        left[own] = False
    return Scores(like.index, shuffled)

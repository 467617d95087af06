"""Random scores, the controls that every method must beat."""

from __future__ import annotations

import torch
from torch import nn

from paramattr.errors import UnitError, an
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection


def random_scores(model: nn.Module, *, reducer: str | Reducer = "kernel", seed: int = 0) -> Scores:
    """Score each unit by a number drawn uniformly from [0, 1).

    Args:
        model: the model whose units are scored.
        reducer: the units, as in `FAIG.score`.
        seed: seed of the draw; the global random state is neither used nor changed.

    Returns:
        Scores of all units.

    Raises:
        UnitError: for an unknown reducer.
    """
    return random_scores_of(UnitIndex.of(model, reducer), seed=seed)


def random_scores_of(index: UnitIndex, *, seed: int = 0) -> Scores:
    """Score the units of an index, as `random_scores` does."""
    draw = torch.Generator().manual_seed(seed)
    return Scores(index, torch.rand(len(index), generator=draw, dtype=torch.float64))


def random_within_layers(like: Scores | Selection, *, seed: int = 0) -> Scores:
    """Shuffle a ranking inside each layer.

    At every fraction, the result's top units hold as many units of each layer as the ranking's top
    units do. Only their positions in the layer are random. A method's lead over this control is due
    to its choice of units within layers. This control's lead over `random_scores` is due to the
    choice of layers.

    Args:
        like: scores, or a selection (use `.top(count=len(selection))` of the result).
        seed: seed of the draw; the global random state is neither used nor changed.

    Returns:
        Scores of the same units. A unit that spans layers counts under its group.

    Raises:
        UnitError: if `like` is neither scores nor a selection.
    """
    if isinstance(like, Selection):
        values = like.chosen.double()
    elif isinstance(like, Scores):
        # Ranks instead of values: ties break before the shuffle as `top` would break them.
        values = torch.empty(len(like), dtype=torch.float64)
        values[like.rank()] = -torch.arange(len(like), dtype=torch.float64)
    else:
        raise UnitError(f"random_within_layers takes Scores or a Selection: found {an(type(like))}")
    draw = torch.Generator().manual_seed(seed)
    shuffled, left = values.clone(), torch.ones(len(values), dtype=torch.bool)
    for units in like.index.layers().values():
        numbers = units[left[units]]
        shuffled[numbers] = values[numbers[torch.randperm(len(numbers), generator=draw)]]
        left[numbers] = False
    return Scores(like.index, shuffled)

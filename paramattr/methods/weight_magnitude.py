"""The magnitude of the weights, a ranking that ignores baseline and data."""

from __future__ import annotations

from torch import nn

from paramattr.parameters import check_whole, named_parameters
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores
from paramattr.wrappers import unwrapped


def weight_magnitude(model: nn.Module, *, reducer: str | Reducer = "kernel") -> Scores:
    """Score each unit by the size of its parameters.

        S_u = Σ_{i in u} |target_i|

    Args:
        model: the target.
        reducer: the units, as in `FAIG.score`.

    Returns:
        Scores of all units, not negative.

    Raises:
        UnitError: for an unknown reducer.
    """
    model = unwrapped(model)
    check_whole(model)
    index = UnitIndex.of(model, reducer)
    return Scores(index, index.reduce({n: p.abs() for n, p in named_parameters(model).items()}))

"""The absolute change of the parameters, blind to data: a method for comparison."""

from __future__ import annotations

from torch import nn

from paramattr.parameters import Baseline, align, named_parameters
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores


def absolute_change(
    model: nn.Module, baseline: Baseline, *, reducer: str | Reducer = "kernel"
) -> Scores:
    """Score each unit by how far its parameters moved.

        S_u = Σ_{i in u} |target_i - baseline_i|

    It sees neither data nor objective, so one ranking serves every condition.

    Args:
        model: the target.
        baseline: the model it is compared with, or a mapping of names to tensors.
        reducer: the units, as in `FAIG.score`.

    Returns:
        Scores of all units, not negative.

    Raises:
        ModelError: if the two are not of one architecture.
        UnitError: for an unknown reducer.

    Source: Xie et al. 2021, Sec. 4.1 (Discussions) and Tab. 2.
    """
    own, other = named_parameters(model), align(model, baseline)
    index = UnitIndex.of(model, reducer)
    return Scores(index, index.reduce({name: (own[name] - other[name]).abs() for name in own}))

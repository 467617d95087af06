"""The absolute change of the parameters, a ranking that ignores data."""

from __future__ import annotations

from torch import nn

from paramattr.parameters import Baseline, align, float_buffers, moving_buffers, named_parameters
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores
from paramattr.wrappers import unwrapped_pair


def absolute_change(
    model: nn.Module,
    baseline: Baseline,
    *,
    reducer: str | Reducer = "kernel",
    strict: bool = True,
) -> Scores:
    """Score each unit by how far its parameters moved.

        S_u = Σ_{i in u} |target_i - baseline_i|

    It uses neither data nor an objective, so one ranking serves every condition.

    Args:
        model: the target.
        baseline: the model it is compared with, or a mapping of names to tensors.
        reducer: the units, as in `FAIG.score`.
        strict: as in `FAIG`.

    Returns:
        Scores of all units, not negative.

    Raises:
        ModelError: if the two models differ in architecture.
        UnitError: for an unknown reducer.

    Source: Xie et al. 2021, Sec. 4.1 (Discussions) and Tab. 2.
    """
    model, baseline = unwrapped_pair(model, baseline)
    other = align(model, baseline, strict=strict, quiet=True)
    other |= moving_buffers(model, baseline, strict=strict)
    target = named_parameters(model) | float_buffers(model)
    index = UnitIndex.of(model, reducer)
    change = {name: (target[name] - value).abs() for name, value in other.items()}
    units, rest = index.reduce_with_rest(change)
    total = float(units.sum() + rest)
    return Scores(index, units, unassigned=float(rest) / total if total else 0.0)

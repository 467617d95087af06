"""Gradient times change, the first-order estimate of a change's effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, overload

from torch import nn

from paramattr.errors import ParamattrError
from paramattr.faig import FAIG
from paramattr.objectives import Objective, squared_error
from paramattr.parameters import Baseline
from paramattr.quadrature import Rule
from paramattr.runtime.ranks import Distributed
from paramattr.scoring.request import Conditions, Loaders, One, Reducers, Several
from paramattr.units.scores import Scores

PLACES = {"target": 0.0, "middle": 0.5, "baseline": 1.0}
"""Names of points on the straight line between the models."""


class ScoreFunction(Protocol):
    """A function `(model, baseline, loader, reducer=...)`, whose units are kernels by default."""

    @overload
    def __call__(
        self, model: Any, baseline: Any, loader: Conditions, *, reducer: One = ..., **options: Any
    ) -> dict[str, Scores]: ...
    @overload
    def __call__(
        self, model: Any, baseline: Any, loader: Conditions, *, reducer: Several, **options: Any
    ) -> dict[str, dict[str, Scores]]: ...
    @overload
    def __call__(
        self,
        model: Any,
        baseline: Any,
        loader: Iterable[Any],
        *,
        reducer: One = ...,
        **options: Any,
    ) -> Scores: ...
    @overload
    def __call__(
        self, model: Any, baseline: Any, loader: Iterable[Any], *, reducer: Several, **options: Any
    ) -> dict[str, Scores]: ...


def score_function(function: Callable[..., Any]) -> ScoreFunction:
    """Let type checkers read a function as `ScoreFunction`."""
    return function


@score_function
def gradient_times_change(
    model: nn.Module,
    baseline: Baseline,
    loader: Loaders,
    *,
    reducer: Reducers = "kernel",
    objective: Objective = squared_error,
    at: str | float = "target",
    show_progress: bool = False,
    checkpoint: str | Path | None = None,
    strict: bool = True,
    distributed: Distributed = False,
) -> Any:
    """Score each unit by the first-order (Taylor) effect of its change.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} |∂L(θ, x)/∂θ_i (baseline_i - target_i)|

    with θ one point of the straight line between the models: this is FAIG with a single node.
    With a baseline of zeros, pruning tools call it first-order importance (Molchanov et al. 2019,
    Eq. 8).

    Args:
        model: the target, in evaluation mode.
        baseline: the model it is compared with, or a mapping of names to tensors.
        loader: `(inputs, targets)` batches, as in `FAIG.score`.
        reducer: the units, as in `FAIG.score`.
        objective: `(output, targets)` to a tensor `(B,)`.
        at: where the gradient is taken: `"target"`, `"middle"`, `"baseline"`, or a number from 0
            (target) to 1 (baseline).
        show_progress: show a progress bar on stderr.
        checkpoint: as in `FAIG.score`.
        strict: as in `FAIG`.
        distributed: as in `FAIG.score`.

    Returns:
        Scores of all units, not negative.

    Raises:
        ParamattrError: for an unknown point, and as `FAIG.score`.
    """
    faig = FAIG(model, baseline, objective=objective, strict=strict)
    found = faig.score(
        loader,
        reducer=reducer,
        method=single_node(at),
        show_progress=show_progress,
        checkpoint=checkpoint,
        distributed=distributed,
    )
    _leave_out_residuals(found)
    return found


def _leave_out_residuals(found: Scores | Mapping[str, Any]) -> None:
    """Take the residuals away: this estimate is not complete, whatever its sum happens to be."""
    if isinstance(found, Scores):
        found.residual = math.nan
        return
    for part in found.values():
        _leave_out_residuals(part)


def single_node(at: str | float) -> Rule:
    """Make the rule with a single node, at one point of the path.

    Raises:
        ParamattrError: for a point that is neither a known name nor a number from 0 to 1.
    """
    place = PLACES.get(at) if isinstance(at, str) else at
    if isinstance(place, bool) or not isinstance(place, Real) or not 0 <= place <= 1:
        raise ParamattrError(
            f"the point {at!r} is not on the path: expected {', '.join(map(repr, PLACES))}, or a "
            "number from 0 (target) to 1 (baseline)"
        )
    return Rule(f"one node at {place:g}", (float(place),), (1.0,), 1 if place == 0.5 else 0)

"""Squared gradient times squared change: the second-order estimate by the diagonal Fisher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.path_integral import PathIntegral
from paramattr.integration.streaming import mean_magnitude
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.paths import StraightLine
from paramattr.quadrature import riemann_left
from paramattr.runtime.isolation import undisturbed
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores


def fisher_times_change(
    model: nn.Module,
    baseline: Baseline,
    loader: Iterable[Any],
    *,
    reducer: str | Reducer = "kernel",
    objective: Objective = squared_error,
    show_progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Scores:
    """Score each unit by its squared change, weighted by the squared gradient at the target.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} (∂L(θ, x)/∂θ_i)² (baseline_i - target_i)²

    The mean squared gradient of a log-likelihood is the diagonal of the (empirical) Fisher
    information; with it this is the penalty that elastic weight consolidation puts on a change.

    Args:
        model: the target, in evaluation mode.
        baseline: the model it is compared with, or a mapping of names to tensors.
        loader: `(inputs, targets)` batches, as in `FAIG.score`.
        reducer: the units, as in `FAIG.score`.
        objective: `(output, targets)` to a tensor `(B,)`; for a Fisher information a negative
            log-likelihood such as `cross_entropy`.
        show_progress: draw a bar on stderr.
        checkpoint: as in `FAIG.score`.

    Returns:
        Scores of all units, not negative.

    Raises:
        ParamattrError: what `FAIG.score` raises.

    Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", Eq. 3.
    """
    check_callable(objective)
    with undisturbed(model):
        path = StraightLine(named_parameters(model), align(model, baseline))
        function = ObjectiveOfParameters(model, objective)
        index = UnitIndex.of(model, reducer)
        integral = PathIntegral(function, path, riemann_left(1), list(index.labels))

        def squares(batch: Batch) -> Iterator[dict[str, Tensor]]:
            found, _ = integral.over(batch, whole=False)
            yield {name: value.square_() for name, value in found.items()}

        return mean_magnitude(
            [squares],
            loader,
            index,
            device=integral.device,
            checkpoint=checkpoint,
            settings=None
            if checkpoint is None
            else {**integral.settings(), "method": "fisher times change"},
            show_progress=show_progress,
        )

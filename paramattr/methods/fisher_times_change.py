"""Squared gradient times squared change, the second-order estimate by the diagonal Fisher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paramattr.faig import FAIG
from paramattr.methods.gradient_times_change import score_function, single_node
from paramattr.objectives import Objective, squared_error
from paramattr.parameters import Baseline
from paramattr.runtime.ranks import Distributed
from paramattr.scoring.request import Loaders, Reducers


@score_function
def fisher_times_change(
    model: nn.Module,
    baseline: Baseline,
    loader: Loaders,
    *,
    reducer: Reducers = "kernel",
    objective: Objective = squared_error,
    show_progress: bool = False,
    checkpoint: str | Path | None = None,
    strict: bool = True,
    distributed: Distributed = False,
) -> Any:
    """Score each unit by its squared change, weighted by the squared gradient at the target.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} (∂L(θ, x)/∂θ_i)² (baseline_i - target_i)²

    The mean squared gradient of a log-likelihood is the diagonal of the (empirical) Fisher
    information. With such an objective, the score is elastic weight consolidation's penalty on the
    change.

    Args:
        model: the target, in evaluation mode.
        baseline: the model it is compared with, or a mapping of names to tensors.
        loader: `(inputs, targets)` batches, as in `FAIG.score`.
        reducer: the units, as in `FAIG.score`.
        objective: `(output, targets)` to a tensor `(B,)`. For Fisher information, use a negative
            log-likelihood such as `cross_entropy`.
        show_progress: show a progress bar on stderr.
        checkpoint: as in `FAIG.score`.
        strict: as in `FAIG`.
        distributed: as in `FAIG.score`.

    Returns:
        Scores of all units, not negative.

    Raises:
        ParamattrError: as `FAIG.score`.

    Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", Eq. 3.
    """
    faig = FAIG(model, baseline, objective=objective, strict=strict)
    return faig.score(
        loader,
        reducer=reducer,
        method=single_node("target"),
        show_progress=show_progress,
        checkpoint=checkpoint,
        distributed=distributed,
        function=_squared,
    )


def _squared(attributions: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.square_() for name, value in attributions.items()}

"""The filters that serve one input, ranked (Eq. 6, without contrast)."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor

from blind_sr.models.pairs import Pair
from paramattr import FAIG, Scores, self_reference, squared_error
from paramattr.errors import ParamattrError
from paramattr.objectives import Objective

REFERENCES: dict[str, Objective] = {"self": self_reference, "truth": squared_error}
"""What an input's output is compared with: the target's own, or the ground truth."""
Sample = tuple[Tensor, Tensor | None]
"""A low-resolution input and its ground truth, both `(1, 3, H, W)`; None where there is none."""
Rank = Callable[[Sample], Scores]


def ranker(pair: Pair, reference: str, *, n_steps: int, method: str, units: str = "kernel") -> Rank:
    """Give the function that ranks the units for one input (Eq. 6, without contrast).

    Args:
        pair: baseline and target.
        reference: `"self"` or `"truth"`.
        n_steps: nodes of the rule.
        method: name of the quadrature rule.
        units: name of their reducer.
    """
    objective = REFERENCES[reference]
    faig = FAIG(pair.target, pair.baseline, objective=objective, dtype=pair.mixed)

    def rank(sample: Sample) -> Scores:
        low, truth = sample
        batch = low if reference == "self" else (low, truth)
        with warnings.catch_warnings():
            # One input's units are compared with those of a function: they are not edited, and a
            # barrier on the path of this input alone says nothing of the function's units.
            warnings.filterwarnings("ignore", "barrier")
            return faig.score([batch], reducer=units, n_steps=n_steps, method=method)

    return rank


def check_reference(reference: str) -> None:
    """Refuse a reference that is not known.

    Raises:
        ParamattrError: naming those that are.
    """
    if reference not in REFERENCES:
        raise ParamattrError(
            f"reference {reference!r} is not known: expected {' or '.join(REFERENCES)}"
        )

"""Integration that spends evaluations where a path needs them, and no more than asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ParamattrError
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters, check_finite_gradients
from paramattr.integration.path_integral import Attributions, PathIntegral
from paramattr.paths import Path, breakpoints
from paramattr.quadrature import gauss_kronrod

NODES = 7
"""Of a panel: a Gauss-Kronrod rule, which extends three Gauss nodes and is exact to degree 11."""
_NARROWEST = 2.0**-16
"""Width of a panel that is halved no further."""

Magnitudes = Callable[[Attributions], Float[Tensor, "units"]]
"""Attributions to one number a unit, whose ranking is to settle."""


@dataclass(frozen=True)
class Adaptive:
    """Gauss-Kronrod panels, halved until the attributions are complete.

    A panel's attributions must sum to the objective's change between its two ends, which takes no
    gradient to know: what is missing is its error. Panels are taken from the target on, and one is
    kept if all that is kept so far is complete within the tolerance, else halved.

    Args:
        rtol: the tolerated residual over the objective's whole change, for each sample (or, where
            `attribute` sums a batch, for the sum).
        top: the tolerated share of the top units that a panel's embedded rule would choose
            otherwise; None asks for completeness alone. The units are those of `score`, or single
            parameters in `attribute`.
        fraction: of the units that count as top.
        max_evaluations: the most gradients of one sample; when they are spent, the panels that
            remain are taken as they are. Each smooth piece of the path takes at least 7.

    Raises:
        ParamattrError: for a tolerance, fraction or number that cannot be.

    >>> Adaptive(rtol=1e-4).max_evaluations
    217
    """

    rtol: float = 1e-3
    top: float | None = None
    fraction: float = 0.01
    max_evaluations: int = 31 * NODES

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ParamattrError(f"rtol is {self.rtol!r}: expected a number in (0, 1), as 1e-3")
        if self.top is not None and not 0 <= self.top < 1:
            raise ParamattrError(f"top is {self.top!r}: expected a share in [0, 1), or None")
        if not 0 < self.fraction <= 1:
            raise ParamattrError(f"fraction is {self.fraction!r}: expected a share in (0, 1]")
        if isinstance(self.max_evaluations, bool) or self.max_evaluations < NODES:
            raise ParamattrError(
                f"max_evaluations is {self.max_evaluations!r}: expected at least {NODES}, the "
                "nodes of one panel"
            )


@dataclass(frozen=True)
class Spent:
    """What the integration of one sample (or of one summed batch) took.

    Attributes:
        evaluations: gradients.
        panels: pieces of the path that were kept.
        residual: the attributions' sum minus the objective's change, over that change's size.
        reason: `"converged"`; `"max_evaluations"` where they were spent before that; or
            `"narrowest"` where a panel was halved 16 times and is not good enough yet.
    """

    evaluations: int
    panels: int
    residual: float
    reason: str


class AdaptiveIntegral(PathIntegral):
    """One path, one objective, and as many panels as each batch needs.

    Args:
        objective: as a function of the parameters.
        path: from the target to the baseline.
        adaptive: the tolerances.
        reported: the parameters whose attributions are kept.
        magnitudes: gives the units of `adaptive.top`; single parameters by default.

    Attributes:
        spent: what each call of `over` took.
    """

    def __init__(
        self,
        objective: ObjectiveOfParameters,
        path: Path,
        adaptive: Adaptive,
        reported: list[str],
        magnitudes: Magnitudes | None = None,
    ) -> None:
        super().__init__(objective, path, gauss_kronrod(NODES), reported)
        self.adaptive, self.batched = adaptive, False
        self.magnitudes = magnitudes or _entries
        self.spent: list[Spent] = []

    def over(self, batch: Batch, *, whole: bool, each: bool = False) -> tuple[Attributions, Tensor]:
        """Integrate over the path, panel by panel; the total is of all that moves."""
        assert not each  # `batched` says no: each sample has panels of its own
        sums, batch = self.zeros(), self._referenced(batch)
        known = {0.0: self._value(0.0, batch), 1.0: self._value(1.0, batch)}
        change = known[1.0] - known[0.0]
        precision = torch.finfo(next(iter(self.path.evaluate(0.0).values())).dtype).eps
        rounding = 8 * precision * max(abs(value) for value in known.values())
        allowed = max(self.adaptive.rtol * abs(change), rounding)
        stack = list(pairwise(breakpoints(self.path)))[::-1]
        total, evaluations, panels, reason = 0.0, 0, 0, "converged"
        lost = 0.0  # what panels that had to be taken as they are left missing
        while stack:
            start, end = stack.pop()
            fine, coarse, own = self._panel(start, end, batch)
            evaluations += NODES
            for place in (start, end):
                if place not in known:
                    known[place] = self._value(place, batch)
            residual = total + own - (known[end] - known[0.0])
            kept = abs(residual - lost) <= allowed and not self._is_moved(sums, fine, coarse)
            # Halved, this panel takes two more, and each of the others one at least.
            affordable = evaluations + NODES * (len(stack) + 2) <= self.adaptive.max_evaluations
            if not kept and affordable and end - start > _NARROWEST:
                middle = (start + end) / 2
                stack += [(middle, end), (start, middle)]
                continue
            if not kept:
                lost = residual
                if reason == "converged":
                    reason = "narrowest" if affordable else "max_evaluations"
            for name, value in fine.items():
                sums[name].add_(value)
            total, panels = total + own, panels + 1
        check_finite_gradients(
            {**sums, "a parameter": torch.tensor(total, device=self.device)}, batch
        )
        missing = total - change
        relative = missing / abs(change) if change else math.inf if abs(missing) > allowed else 0.0
        self.spent.append(Spent(evaluations, panels, relative, reason))
        return sums, torch.tensor(total, dtype=torch.float64, device=self.device)

    def settings(self) -> dict[str, Any]:
        """Describe the integral, so that two runs can be told apart."""
        return {**super().settings(), "adaptive": asdict(self.adaptive)}

    def _panel(
        self, start: float, end: float, batch: Batch
    ) -> tuple[Attributions, Attributions, float]:
        fine = self.zeros()
        coarse = self.zeros() if self.adaptive.top is not None else {}
        assert self.rule.embedded_weights is not None
        weights = zip(self.rule.weights, self.rule.embedded_weights, strict=True)
        total = 0.0
        for (alpha, _, moving), (weight, embedded) in zip(
            self.placed(start, end), weights, strict=True
        ):
            for name, product in self.products(alpha, batch, moving):
                total += (end - start) * weight * float(product.sum(dtype=torch.float64))
                if name in fine:
                    fine[name].add_(product, alpha=(end - start) * weight)
                if name in coarse:
                    coarse[name].add_(product, alpha=(end - start) * embedded)
        return fine, coarse, total

    def _is_moved(self, sums: Attributions, fine: Attributions, coarse: Attributions) -> bool:
        """Say whether the embedded rule would choose too many other top units."""
        if self.adaptive.top is None:
            return False
        chosen = []
        for panel in (fine, coarse):
            magnitudes = self.magnitudes({n: sums[n] + value for n, value in panel.items()})
            count = max(1, round(self.adaptive.fraction * len(magnitudes)))
            chosen.append(set(magnitudes.topk(count).indices.tolist()))
        return len(chosen[0] - chosen[1]) > self.adaptive.top * len(chosen[0])

    def _value(self, alpha: float, batch: Batch) -> float:
        return float(self.objective.values(self.path.evaluate(alpha), batch).double().sum())


def _entries(attributions: Attributions) -> Float[Tensor, "entries"]:
    return torch.cat([value.abs().flatten() for value in attributions.values()])

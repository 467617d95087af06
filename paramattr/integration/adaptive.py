"""Integration that spends evaluations where a path needs them, and no more than asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ParamattrError
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import check_finite_gradients, check_finite_values
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.integration.path_integral import Integrated, Node, Spent, Values, place
from paramattr.quadrature import gauss_kronrod

NODES = 7
"""Of a panel: a Gauss-Kronrod rule, which extends three Gauss nodes and is exact to degree 11."""
_NARROWEST = 2.0**-16
"""Width of a panel that is halved no further."""


@dataclass(frozen=True)
class Adaptive:
    """Gauss-Kronrod panels, halved until the attributions are complete.

    A panel's attributions must sum to the objective's change between its two ends, which takes no
    gradient to know: what is missing is its error. Panels are taken from the target on, and one is
    kept if all that is kept so far is complete within the tolerance, else halved.

    Args:
        rtol: the tolerated residual over the objective's whole change, for each sample (or, where
            `attribute` sums a batch, for the sum).
        max_evaluations: the most gradients per sample; when they are spent, the panels that remain
            are taken as they are. Each smooth piece of the path takes at least 7.

    Raises:
        ParamattrError: for a tolerance or number that cannot be.

    >>> Adaptive(rtol=1e-4).max_evaluations
    217
    """

    rtol: float = 1e-3
    max_evaluations: int = 31 * NODES

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ParamattrError(f"rtol is {self.rtol!r}: expected a number in (0, 1), as 1e-3")
        if isinstance(self.max_evaluations, bool) or self.max_evaluations < NODES:
            raise ParamattrError(
                f"max_evaluations is {self.max_evaluations!r}: expected at least {NODES}, the "
                "nodes of one panel"
            )


class _Panel(NamedTuple):
    start: float
    end: float


class _Kept(NamedTuple):
    """What the panels that were kept came to, and why there are no more."""

    attributions: Attributions
    total: float
    panels: int
    evaluations: int
    reason: str


class AdaptiveIntegral:
    """The integral of an integrand by as many panels as each batch needs.

    Args:
        integrand: the objective along the path.
        adaptive: the tolerances.
    """

    def __init__(self, integrand: Integrand, adaptive: Adaptive) -> None:
        self.integrand, self.adaptive = integrand, adaptive
        self.rule = gauss_kronrod(NODES)

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch, panel by panel.

        Args:
            batch: samples.
            whole: without effect: the total is always of all that moves, which the panels need.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        changes = _Changes(self.integrand, batch)
        change = changes.between(0.0, 1.0)
        allowed = max(self.adaptive.rtol * abs(change), changes.rounding)
        kept = self._panels(batch, changes, allowed)
        device = self.integrand.device
        check_finite_gradients(
            {**kept.attributions, "a parameter": torch.tensor(kept.total, device=device)}, batch
        )
        missing = kept.total - change
        relative = missing / abs(change) if change else math.inf if abs(missing) > allowed else 0.0
        spent = Spent(kept.evaluations, kept.panels, relative, kept.reason)
        total = torch.tensor(kept.total, dtype=torch.float64, device=device)
        return Integrated(kept.attributions, total, changes.values(), spent)

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample by itself: each has panels of its own."""
        return (self.over(sample, whole=whole) for sample in batch.chunks(1))

    def settings(self) -> dict[str, Any]:
        """Describe the integral, so that two runs can be told apart."""
        return {
            **self.integrand.settings(),
            "rule": self.rule.settings(),
            "adaptive": asdict(self.adaptive),
        }

    def _panels(self, batch: Batch, changes: _Changes, allowed: float) -> _Kept:
        sums = self.integrand.zeros(list(self.integrand.reported))
        stack = [_Panel(*ends) for ends in pairwise(self.integrand.path.breakpoints)][::-1]
        total, evaluations, panels, reason = 0.0, 0, 0, "converged"
        lost = 0.0  # what panels that had to be taken as they are left missing
        while stack:
            panel = stack.pop()
            attributions, part = self._over_panel(panel, batch)
            evaluations += NODES
            residual = total + part - changes.between(0.0, panel.end)
            is_complete = abs(residual - lost) <= allowed
            # Halved, this panel takes two more, and each of the others one at least.
            affordable = evaluations + NODES * (len(stack) + 2) <= self.adaptive.max_evaluations
            if not is_complete and affordable and panel.end - panel.start > _NARROWEST:
                middle = (panel.start + panel.end) / 2
                stack += [_Panel(middle, panel.end), _Panel(panel.start, middle)]
                continue
            if not is_complete:
                lost = residual
                if reason == "converged":
                    reason = "narrowest" if affordable else "max_evaluations"
            for name, value in attributions.items():
                sums[name].add_(value)
            total, panels = total + part, panels + 1
        return _Kept(sums, total, panels, evaluations, reason)

    def _over_panel(self, panel: _Panel, batch: Batch) -> tuple[Attributions, float]:
        sums, total = self.integrand.zeros(list(self.integrand.reported)), 0.0
        for node in place(self.rule.nodes, self.rule.weights, *panel):
            for name, product in self._products(node, batch):
                total += node.weight * float(product.sum(dtype=torch.float64))
                if name in sums:
                    sums[name].add_(product, alpha=node.weight)
        return sums, total

    def _products(self, node: Node, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        speed = self.integrand.path.derivative(node.alpha)
        moving = [name for name, value in speed.items() if value.any()]
        found = self.integrand.gradients(node.alpha, batch, moving, each=False)
        check_finite_values([found.values], batch.first)
        for name, gradient in found.by_name.items():
            yield name, gradient * speed[name]


class _Changes:
    """How much a batch's objective changes between places of the path, each measured once."""

    def __init__(self, integrand: Integrand, batch: Batch) -> None:
        self.integrand, self.batch = integrand, batch
        self.known: dict[float, Float[Tensor, "b"]] = {}

    def between(self, start: float, end: float) -> float:
        return self._at(end) - self._at(start)

    def values(self) -> Values:
        """Give the places known so far, and the objective there."""
        return Values(tuple(self.known), torch.stack(list(self.known.values())))

    @property
    def rounding(self) -> float:
        """How much the objective at the places known so far may be off by rounding."""
        precision = max(torch.finfo(v.dtype).eps for v in self.integrand.path.start.values())
        return 8 * precision * max(abs(float(value.sum())) for value in self.known.values())

    def _at(self, alpha: float) -> float:
        if alpha not in self.known:
            self.known[alpha] = self.integrand.values(alpha, self.batch, len(self.batch))
        return float(self.known[alpha].sum())

"""Adaptive integration: evaluations go where the path needs them, up to a limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.cost import Spent
from paramattr.errors import ModelError, ParamattrError
from paramattr.integration.accumulation import Attributions, Reduction
from paramattr.integration.batches import Batch
from paramattr.integration.integral import Integrated, Values, integrated, place, stretches
from paramattr.integration.integrand import Integrand
from paramattr.quadrature import gauss_kronrod

NODES = 7
"""Nodes per panel: a Gauss-Kronrod rule that extends three Gauss nodes, exact to degree 11."""
_NARROWEST = 2.0**-16
"""Width below which a panel is not halved."""


@dataclass(frozen=True)
class Adaptive:
    """Gauss-Kronrod panels, halved until the attributions are complete.

    A panel's attributions must sum to the objective's change between its two ends, which needs no
    gradient. The difference is the panel's error. Panels are processed from the target onwards. A
    panel is kept if all panels kept so far are complete within the tolerance; otherwise it is
    halved.

    Args:
        rtol: the tolerated residual relative to the objective's whole change, per sample (or for
            the sum, if `attribute` sums a batch).
        max_evaluations: the most gradients per sample; after these, the remaining panels are not
            refined. Each smooth piece of the path takes at least 7.

    Raises:
        ParamattrError: for a tolerance or number out of range.

    >>> Adaptive(rtol=1e-4).max_evaluations
    217
    """

    rtol: float = 1e-3
    max_evaluations: int = 31 * NODES
    needs_all = True

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ParamattrError(
                f"rtol is {self.rtol!r}: expected a number in (0, 1), such as 1e-3"
            )
        if isinstance(self.max_evaluations, bool) or self.max_evaluations < NODES:
            raise ParamattrError(
                f"max_evaluations is {self.max_evaluations!r}: expected at least {NODES}, the "
                "nodes of one panel"
            )

    def integral(self, integrand: Integrand) -> AdaptiveIntegral:
        """Give the integral of the objective along the path."""
        return AdaptiveIntegral(integrand, self)

    def check_shards(self) -> None:
        """Reject models that are sharded over processes.

        Raises:
            ModelError: always: no process knows the total that a panel is judged by.
        """
        raise ModelError(
            'method="adaptive" needs the attributions of all parameters at once, and the model '
            "is sharded: expected a rule with fixed nodes"
        )


class _Panel(NamedTuple):
    start: float
    end: float
    moving: list[str] | None


class _Accepted(NamedTuple):
    """The sums over the accepted panels, and why the refinement stopped."""

    attributions: Attributions
    total: float
    panels: int
    evaluations: int
    reason: str


class AdaptiveIntegral:
    """The integral of an integrand, with as many panels as each batch needs.

    Args:
        integrand: the objective along the path.
        adaptive: the tolerances.
    """

    def __init__(self, integrand: Integrand, adaptive: Adaptive) -> None:
        self.integrand, self.adaptive = integrand, adaptive
        self.rule = gauss_kronrod(NODES)

    @property
    def moving(self) -> list[str]:
        """List all parameters that move somewhere."""
        starts = self.integrand.path.breakpoints[:-1]
        names = (name for alpha in starts for name in self.integrand.moving(alpha))
        return list(dict.fromkeys(names))

    @property
    def reports_all(self) -> bool:
        """Say that each sample comes with its total."""
        return False

    @property
    def shared_nodes(self) -> Sequence[float]:
        """List no node: each sample has its own."""
        return ()

    @property
    def looked_at(self) -> Sequence[float]:
        """List no place: the ends of the first panels are those of all samples."""
        return ()

    def by_units(self, reduction: Reduction, memory: int | None) -> None:
        """Give none: a panel may be taken back."""

    def partitioned(self, parts: int) -> Sequence[AdaptiveIntegral]:
        """Reject several parts.

        Raises:
            ParamattrError: for several: all parameters say together when to stop.
        """
        if parts > 1:
            raise ParamattrError(
                f'partitions is {parts} with method="adaptive", which needs the attributions of '
                "all parameters at once: expected a rule with fixed nodes; use partitions=1"
            )
        return [self]

    def replica(self) -> AdaptiveIntegral:
        """Return a copy for another thread; as `Integral.replica`."""
        return AdaptiveIntegral(self.integrand.replica(), self.adaptive)

    def total(self, sample: Batch) -> float:
        """Sum the attributions of a sample over all that moves."""
        return float(self.over(sample, whole=True).total)

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch, panel by panel.

        Args:
            batch: samples.
            whole: no effect: the panels need the total over everything that moves.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        changes = _Changes(self.integrand, batch)
        change = changes.between(0.0, 1.0)
        # Below the rounding of the objective itself no panel would ever be complete.
        allowed = max(self.adaptive.rtol * abs(change), changes.rounding)
        result = self._panels(batch, changes, allowed)
        device = self.integrand.device
        missing = result.total - change
        relative = missing / abs(change) if change else math.inf if abs(missing) > allowed else 0.0
        spent = Spent(result.evaluations, result.panels, relative, result.reason)
        total = torch.tensor(result.total, dtype=torch.float64, device=device)
        return Integrated(result.attributions, total, changes.values(), spent)

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample separately, each with its own panels."""
        return (self.over(sample, whole=whole) for sample in batch.chunks(1))

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        return {
            **self.integrand.settings(),
            "rule": self.rule.settings(),
            "adaptive": asdict(self.adaptive),
        }

    def _panels(self, batch: Batch, changes: _Changes, allowed: float) -> _Accepted:
        sums = self.integrand.zeros(list(self.integrand.reported))
        # The target's end on top: what is kept so far reaches from there without a hole.
        stack = [self._panel(*ends) for ends in pairwise(self.integrand.path.breakpoints)][::-1]
        total, evaluations, panels, reason = 0.0, 0, 0, "converged"
        lost = 0.0  # the error of panels that could not be refined
        while stack:
            panel = stack.pop()
            attributions, part = self._over(panel, batch)
            evaluations += NODES
            # Not the panel's own error: errors of opposite sign may cancel, and those before are
            # known.
            residual = total + part - changes.between(0.0, panel.end)
            is_complete = abs(residual - lost) <= allowed
            # If halved, this panel costs two more, and each remaining one at least one.
            affordable = evaluations + NODES * (len(stack) + 2) <= self.adaptive.max_evaluations
            # Halved at the middle, never moved: halves share the end that is known.
            if not is_complete and affordable and panel.end - panel.start > _NARROWEST:
                middle = (panel.start + panel.end) / 2
                stack += [panel._replace(start=middle), panel._replace(end=middle)]
                continue
            # Its error is forgiven from here on, or every later panel would be halved for it.
            if not is_complete:
                lost = residual
                if reason == "converged":
                    reason = "narrowest" if affordable else "max_evaluations"
            for name, value in attributions.items():
                sums[name].add_(value)
            total, panels = total + part, panels + 1
        return _Accepted(sums, total, panels, evaluations, reason)

    def _panel(self, start: float, end: float) -> _Panel:
        # On a straight piece the same parameters move at every node: they are compared once.
        is_straight = self.integrand.path.is_piecewise_linear
        return _Panel(start, end, self.integrand.moving(start) if is_straight else None)

    def _over(self, panel: _Panel, batch: Batch) -> tuple[Attributions, float]:
        nodes = place(self.rule.nodes, self.rule.weights, panel.start, panel.end)
        placed = stretches(self.integrand, nodes, panel.moving)
        found = integrated(self.integrand, placed, batch, whole=True)
        return found.attributions, float(found.total)


class _Changes:
    """Changes of a batch's objective between points of the path, each evaluated once."""

    def __init__(self, integrand: Integrand, batch: Batch) -> None:
        self.integrand, self.batch = integrand, batch
        self.known: dict[float, Float[Tensor, "b"]] = {}

    def between(self, start: float, end: float) -> float:
        return self._at(end) - self._at(start)

    def values(self) -> Values:
        """Return the points evaluated so far, and the objective there."""
        return Values(tuple(self.known), torch.stack(list(self.known.values())))

    @property
    def rounding(self) -> float:
        """The possible rounding error of the objective at the points evaluated so far."""
        # Eight units: a sum over a few thousand outputs, each rounded, in the model's own
        # precision.
        precision = max(torch.finfo(v.dtype).eps for v in self.integrand.path.start.values())
        return 8 * precision * max(abs(float(value.sum())) for value in self.known.values())

    def _at(self, alpha: float) -> float:
        # Panels share their ends, and halving asks for the same ones again.
        if alpha not in self.known:
            self.known[alpha] = self.integrand.values(alpha, self.batch, len(self.batch))
        return float(self.known[alpha].sum())

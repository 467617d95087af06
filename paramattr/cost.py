"""What a run takes: gradients and seconds, panels per sample, and memory along the path."""

from __future__ import annotations

from typing import NamedTuple

AMPLE = 2**28
"""Bytes that are held without asking: 256 MiB, which small models never reach."""


class Spent(NamedTuple):
    """The cost of the adaptive integration of one sample (or of one summed batch).

    Attributes:
        evaluations: number of gradients.
        panels: number of panels that were kept.
        residual: the attributions' sum minus the objective's change, relative to that change.
        reason: why it stopped: `"converged"`; `"max_evaluations"` if they ran out first; or
            `"narrowest"` if a panel was halved 16 times and still is not accurate enough.
    """

    evaluations: int
    panels: int
    residual: float
    reason: str


class Plan(NamedTuple):
    """The order of a run's gradients within a memory budget.

    Either each sample meets all nodes before the next sample does, and points of the path are held;
    or several samples share each point, and a sum of gradients is held for each of them.

    Attributes:
        points: points of the path that are held.
        samples: samples that meet a node before the next node is interpolated.
        sums: sums of gradients that are held, each of the size of the parameters.
        speed: bytes of the path's derivative that are held; the rest is computed per sample.
        interpolations: of the path's parameters, per sample.
        held_bytes: what points, sums and speed take.
    """

    points: int
    samples: int
    sums: int
    speed: int
    interpolations: float
    held_bytes: int

    @classmethod
    def of(cls, nodes: int, samples: int, size: int, memory: int | None = None) -> Plan:
        """Choose the order that interpolates less.

        One point, and with several nodes one sum, are held whatever the budget.

        Args:
            nodes: number of nodes of the rule.
            samples: number of samples that come together.
            size: bytes of the parameters.
            memory: bytes that all of these may take; by default 1.75 times the parameters, so that
                with one node a run stays below three times them, or 256 MiB if that is more.

        >>> Plan.of(nodes=1, samples=8, size=100, memory=100).interpolations
        0.0
        >>> Plan.of(nodes=8, samples=8, size=100, memory=500).samples
        4
        """
        room = _room(size, memory)
        # A place is a point of the path or a sum of gradients: each is as large as the parameters.
        most = max(room // size, 1) if size else nodes + 2
        points, together, sums = min(nodes, max(1, most - (nodes > 1))), 1, int(nodes > 1)
        # One place is written anew for all nodes that have none of their own.
        anew = float(nodes - points + 1 if points < nodes else 0)
        shared = max(1, min(samples, most - 1))
        if nodes / shared < anew:
            points, together, sums, anew = 1, shared, shared, nodes / shared
        # Held last: a missing speed costs one subtraction per entry, a missing point an
        # interpolation.
        speed = min(size, max(0, room - (points + sums) * size))
        return cls(points, together, sums, speed, anew, (points + sums) * size + speed)

    @classmethod
    def alone(cls, nodes: int, size: int, memory: int | None = None) -> Plan:
        """Plan nodes that come once: each is interpolated for its sample alone.

        Args:
            nodes: number of nodes per sample.
            size: bytes of the parameters.
            memory: bytes, as in `of`.
        """
        held = 1 + (nodes > 1)
        speed = min(size, max(0, _room(size, memory) - held * size))
        return cls(1, 1, held - 1, speed, float(nodes), held * size + speed)


class Cost(NamedTuple):
    """What scores took.

    Attributes:
        gradients: number of gradients, in this run.
        samples: number of samples, in this run.
        seconds: wall time of the whole call, of all its conditions together.
        each: what an adaptive integration took, an entry per sample of all conditions.
        plan: the order of the gradients, each worker on its own; None if attributions were held as
            a whole.
    """

    gradients: int = 0
    samples: int = 0
    seconds: float = 0.0
    each: tuple[Spent, ...] = ()
    plan: Plan | None = None

    def plus(self, gradients: int) -> Cost:
        """Add one sample."""
        return self._replace(gradients=self.gradients + gradients, samples=self.samples + 1)


def _room(size: int, memory: int | None) -> int:
    return max(7 * size // 4, AMPLE) if memory is None else memory

"""The order of a run's gradients: what is interpolated once, and what is held for it."""

from __future__ import annotations

from typing import NamedTuple

AMPLE = 2**28
"""Bytes that are held without asking: 256 MiB, which small models never reach."""


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
            nodes: of the rule.
            samples: that come together.
            size: of the parameters, in bytes.
            memory: bytes that all of these may take; by default 1.75 times the parameters, so that
                with one node a run stays below three times them, or 256 MiB if that is more.

        >>> Plan.of(nodes=1, samples=8, size=100, memory=100).interpolations
        0.0
        >>> Plan.of(nodes=8, samples=8, size=100, memory=500).samples
        4
        """
        room = _room(size, memory)
        most = max(room // size, 1) if size else nodes + 2
        points, together, sums = min(nodes, max(1, most - (nodes > 1))), 1, int(nodes > 1)
        anew = float(nodes - points + 1 if points < nodes else 0)
        shared = max(1, min(samples, most - 1))
        if nodes / shared < anew:
            points, together, sums, anew = 1, shared, shared, nodes / shared
        speed = min(size, max(0, room - (points + sums) * size))
        return cls(points, together, sums, speed, anew, (points + sums) * size + speed)

    @classmethod
    def alone(cls, nodes: int, size: int, memory: int | None = None) -> Plan:
        """Plan nodes that come once: each is interpolated for its sample alone.

        Args:
            nodes: per sample.
            size: of the parameters, in bytes.
            memory: as in `of`.
        """
        held = 1 + (nodes > 1)
        speed = min(size, max(0, _room(size, memory) - held * size))
        return cls(1, 1, held - 1, speed, float(nodes), held * size + speed)


def _room(size: int, memory: int | None) -> int:
    return max(7 * size // 4, AMPLE) if memory is None else memory

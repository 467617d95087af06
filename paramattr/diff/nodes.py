"""How many nodes a comparison takes: as many as it needs for its attributions to add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LADDER = (2, 4, 8, 16, 32)
"""Numbers of nodes that are tried, one after the other."""
SETTLED = 0.05
"""The residual from which on attributions do not add up."""

Residuals = dict[str, float]
"""A condition to what its attributions miss of the objective's change; NaN where that is zero."""


@dataclass(frozen=True)
class Look:
    """What some nodes miss on the first samples of each condition."""

    nodes: int
    residual: Residuals


@dataclass(frozen=True)
class Nodes:
    """How many nodes were taken, and why.

    Attributes:
        taken: how many.
        looks: at the numbers that were tried, in their order; none where the number was given.
    """

    taken: int
    looks: tuple[Look, ...] = ()


def settled(look: Callable[[int], Residuals], kept: int | None = None) -> Nodes:
    """Raise the nodes until the attributions of every condition add up, or there are no more.

    Args:
        look: gives what so many nodes miss.
        kept: the nodes of the run that is resumed, which stay if they are enough.

    >>> settled(lambda nodes: {"food": 1 / nodes**2}).taken
    8
    """
    looks = []
    for nodes in LADDER if kept is None else (kept, *(more for more in LADDER if more > kept)):
        looks.append(Look(nodes, look(nodes)))
        if adds_up(looks[-1].residual):
            break
    return Nodes(looks[-1].nodes, tuple(looks))


def adds_up(residual: Mapping[str, float]) -> bool:
    """Say whether nothing to speak of is missing; where nothing changes, nothing is."""
    return all(math.isnan(missing) or missing < SETTLED for missing in residual.values())


def warning(nodes: Nodes, residual: Mapping[str, float]) -> str:
    """Say of which conditions too much is missing; nothing where it adds up.

    Args:
        nodes: what was taken.
        residual: of the scores.
    """
    if adds_up(residual):
        return ""
    much = {name: one for name, one in residual.items() if one >= SETTLED}
    said = ", ".join(f"{percent(one)} of the change on {name}" for name, one in much.items())
    start = f"With {nodes.taken} node{'s' * (nodes.taken != 1)} the attributions miss {said}"
    if nodes.looks:
        return (
            f"{start}: {nodes.taken} nodes are not enough, and the scores may name the wrong "
            f"units. Give more, such as --steps {2 * nodes.taken}, or a base nearer to the tuned "
            "model."
        )
    return (
        f"{start}: more than {percent(SETTLED)}, so the scores may name the wrong units. Give "
        f"more nodes than --steps {nodes.taken}, or leave --steps out, which takes as many as "
        "needed."
    )


def told(nodes: Nodes, residual: Mapping[str, float]) -> list[str]:
    """Say how many nodes were taken and why, and what they miss."""
    said = f"Nodes: {nodes.taken}."
    fewer = [(look.nodes, _worst(look.residual)) for look in nodes.looks[:-1]]
    for number, (count, missing) in enumerate(fewer):
        said += f", with {count} {percent(missing)}" if number else (
            f" With {count} the attributions miss up to {percent(missing)} of the change"
        )  # fmt: skip
    shares = ", ".join(f"{name} {percent(one)}" for name, one in residual.items())
    return [
        said + "." * bool(fewer),
        "Residual, what the attributions miss of the objective's change on the first samples of a "
        f"condition (at most 8): {shares}.",
    ]


def percent(share: float) -> str:
    """Write a share.

    >>> percent(0.874), percent(0.0912), percent(math.nan)
    ('87%', '9.1%', 'not known, since nothing changes')
    """
    if math.isnan(share):
        return "not known, since nothing changes"
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f}%"


def _worst(residual: Mapping[str, float]) -> float:
    return max((one for one in residual.values() if not math.isnan(one)), default=math.nan)

"""Partitions: passes over the model that each keep the gradients of one part of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from paramattr.errors import ParamattrError
from paramattr.integration.batches import Batch
from paramattr.integration.integrand import Attributions
from paramattr.integration.path_integral import Integral, PathIntegral, Spent, Values
from paramattr.integration.reduction import Reduced
from paramattr.integration.sums import Sample

Reduce = Callable[[Attributions], Mapping[str, Reduced]]
"""One sample's attributions, of some of the parameters, to its sums per unit."""


def split(integral: Integral, parts: int) -> Sequence[Integral]:
    """Split an integral into several, each of the parameters of one part.

    The parts follow the model's order and are as even as whole parameters allow. What does not
    move has no attribution, and is in none of them.

    Args:
        integral: of all parameters.
        parts: how many; with 1 it is the integral itself.

    Raises:
        ParamattrError: for several parts of an adaptive integral, which needs all parameters at
            once to know when to stop.
    """
    if parts == 1:
        return [integral]
    if not isinstance(integral, PathIntegral):
        raise ParamattrError(
            f'partitions is {parts} with method="adaptive", which needs the attributions of all '
            "parameters at once: expected a rule with fixed nodes; use partitions=1"
        )
    start = integral.integrand.path.start
    names = [name for name in integral.moving if name in integral.reported]
    found = []
    for part in groups({name: start[name].numel() for name in names}, parts):
        piece = copy.copy(integral)
        piece.reported = frozenset(part)
        piece.integrand = replace(integral.integrand, reported=tuple(part))
        found.append(piece)
    return found or [integral]


def groups(sizes: Mapping[str, int], parts: int) -> list[list[str]]:
    """Cut names into runs of about the same size.

    >>> groups({"a": 1, "b": 1, "c": 2}, 2)
    [['a', 'b'], ['c']]
    """
    total, before = sum(sizes.values()), 0
    found: list[list[str]] = [[] for _ in range(parts)]
    for name, size in sizes.items():
        middle = before + size / 2
        found[min(parts - 1, int(parts * middle / total)) if total else 0].append(name)
        before += size
    return [group for group in found if group]


def reduced_samples(
    pieces: Sequence[Integral], batch: Batch, reduce: Reduce, at_once: int
) -> Iterator[Sample]:
    """Integrate for each sample, piece by piece, and add up what its units get.

    Sums of magnitudes and of signs over a unit's entries are sums over parts of them, so nothing
    is lost. One sample's attributions are released before the next one's are computed.

    Args:
        pieces: of `split`.
        batch: samples.
        reduce: one sample's attributions to its sums per unit; called once per piece.
        at_once: samples that are differentiated together.
    """
    for part in batch.chunks(at_once):
        sums: list[dict[str, Reduced]] = [{} for _ in range(len(part))]
        seen: list[tuple[Values | None, Spent | None, float | None]]
        seen = [(None, None, None)] * len(part)
        for piece in pieces:
            number = 0
            for found in piece.samples(part, whole=False, at_once=at_once):
                attributions, total, values, taken = found
                del found
                for name, own in reduce(attributions).items():
                    sums[number][name] = _added(sums[number].get(name), own)
                del attributions
                # A rule that takes nodes as needed knows the total; others do not.
                seen[number] = (values, taken, None if taken is None else float(total))
                number += 1  # noqa: SIM113 (enumerate would keep the attributions alive)
        for own_sums, of_sample in zip(sums, seen, strict=True):
            yield Sample(own_sums, *of_sample)


def _added(one: Reduced | None, other: Reduced) -> Reduced:
    if one is None:
        return other
    return Reduced(
        one.magnitudes + other.magnitudes,
        one.signed + other.signed,
        one.rest + other.rest,
        one.total + other.total,
    )

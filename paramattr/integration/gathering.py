"""Sums that several ranks made, each over its share of the samples, added up on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from paramattr.integration.batches import Batch
from paramattr.integration.cross_sums import CrossSums
from paramattr.integration.sums import RunningSums
from paramattr.runtime.ranks import Ranks


class Summed(Protocol):
    """What holds the sums of one condition."""

    sums: dict[str, RunningSums]


def add_up(
    ranks: Ranks, conditions: Mapping[str, Summed], together: Mapping[str, CrossSums]
) -> None:
    """Add the sums of all ranks, in the place of each rank's own.

    Sample number k of every condition is the same rank's, so what two conditions have in common is
    a sum over ranks too.

    Args:
        ranks: the processes; with one alone nothing is done.
        conditions: name to its sums, of every set of units.
        together: name of a set of units to the sums of products between conditions.

    Raises:
        RankError: if another rank failed, or has other data.
    """
    ranks.meet("the end")
    if ranks.size == 1:
        return
    for one in conditions.values():
        for sums in one.sums.values():
            sums.resume(ranks.added(sums.state()))
    paired = ranks.gathered({name: crossed.is_paired for name, crossed in together.items()})
    for name, crossed in together.items():
        of_all = all(flags[name] for flags in paired)
        crossed.resume(ranks.added(crossed.products_alone()) if of_all else {})


def own_share(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Batch | None]:
    """Give of each batch this rank's samples; None where it has none of them.

    Raises:
        RankError: if another rank failed, or was given other data.
    """
    drawn, digest = 0, hashlib.sha256()
    for number, batch in enumerate(batches, 1):
        if ranks.size == 1:
            yield batch
            continue
        ranks.check()
        batch.feed(digest.update)
        if is_looked_at(number):
            ranks.compare(f"the data up to batch {number}", digest.hexdigest())
        places = ranks.share(len(batch), first=drawn)
        drawn += len(batch)
        yield None if places is None else batch.on(places)
    ranks.compare("the data", f"{drawn} {digest.hexdigest()}")


def is_looked_at(batch: int) -> bool:
    """Say whether the data up to a batch are compared: the first, second, fourth, eighth..."""
    return batch & (batch - 1) == 0

"""When enough samples were drawn: as soon as the contrast's top units are settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ParamattrError, warn
from paramattr.integration.accumulation import Reduced
from paramattr.runtime.compute import check_count
from paramattr.units.agreement import population_agreement
from paramattr.units.selection import how_many

GROUPS = 8
"""The samples are dealt to so many groups, whose halves are compared; a look takes one of each."""
FEWEST = 2 * GROUPS
"""Samples of each condition before the first look."""


@dataclass(frozen=True)
class Until:
    """A limit on the samples: the agreement that they are to reach, a number of them, or both.

    Args:
        agreement: overlap, above 0 and below 1, of the top units (of each condition's contrast)
            with those of all such samples, as estimated (`Scores.agreement`); None for no such end.
        fraction: share of the units in the top sets, above 0 and at most 1.
        max_samples: the most samples of each condition; None for all that there are.

    Raises:
        ParamattrError: for a number out of its range.

    >>> Until(0.9, fraction=0.05)
    Until(agreement=0.9, fraction=0.05, max_samples=None)
    """

    agreement: float | None = None
    fraction: float = 0.01
    max_samples: int | None = None

    def __post_init__(self) -> None:
        until = self.agreement
        if until is not None and not (isinstance(until, Real) and 0 < until < 1):
            raise ParamattrError(
                f"until is {until!r}: expected an agreement above 0 and below 1, such as 0.9"
            )
        how_many(1, fraction=self.fraction)
        check_count("max_samples", self.max_samples, ", or None")


class Settling:
    """How settled the rankings of a run are.

    Each condition's samples are dealt to groups, one after the other. Between the groups' means,
    contrasted with the other conditions', `population_agreement` is estimated after every few
    samples. Drawing ends when each condition's estimate, in every set of units, is at least the
    limit's at two looks in a row: a single look may be high by chance.

    Args:
        until: the limit.
        conditions: names of the conditions.
        units: name of a set of units to how many.

    Attributes:
        agreements: condition, then set of units, to the estimate of the last look.
    """

    def __init__(self, until: Until, conditions: Sequence[str], units: Mapping[str, int]) -> None:
        self.until = until
        self.agreements: dict[str, dict[str, float]] = {}
        self._sums: dict[str, dict[str, Float[Tensor, "groups units"]]] = {}
        self._samples = dict.fromkeys(conditions, 0)
        self._looked_at, self._in_a_row = 0, 0
        if until.agreement is not None:
            self._sums = {
                c: {u: torch.zeros(GROUPS, n, dtype=torch.float64) for u, n in units.items()}
                for c in conditions
            }

    @property
    def is_settled(self) -> bool:
        """Whether no further sample is needed."""
        return self._in_a_row > 1

    def has_ended(self, given: int) -> bool:
        """Say whether a condition of which so many samples were given needs no more."""
        return self.is_settled or self.left(given) == 0

    def left(self, given: int) -> int | None:
        """Say how many more samples a condition may give; None for any number."""
        most = self.until.max_samples
        return None if most is None else max(0, most - given)

    def add(self, condition: str, sample: Mapping[str, Reduced]) -> None:
        """Add one sample."""
        # Dealt one after the other: a drift of the data spreads over all groups.
        place = self._samples[condition] % GROUPS
        self._samples[condition] += 1
        for units, sums in self._sums.get(condition, {}).items():
            sums[place] += sample[units].magnitudes

    def look(self, *, is_end: bool = False) -> None:
        """Estimate the agreement, if there are enough new samples since the last look.

        Args:
            is_end: whether there are no more samples, so that any new one is enough.
        """
        counts = self._samples.values()
        fewest, total, is_even = min(counts), sum(counts), len(set(counts)) == 1
        new, turn = total - self._looked_at, GROUPS * len(counts)
        # Conditions whose numbers differ for now would leave their last samples without a pair.
        is_due = fewest >= FEWEST and (new >= turn if is_even else new >= 2 * turn)
        if self.until.agreement is None or not (is_due or (is_end and fewest >= GROUPS and new)):
            return
        self._looked_at, self.agreements = total, self._estimated()
        least = min(min(found.values()) for found in self.agreements.values())
        # One high look in many is chance; two in a row rarely are.
        self._in_a_row = self._in_a_row + 1 if least >= self.until.agreement else 0

    def conclude(self) -> None:
        """Say so where the samples ended before the ranking was settled.

        Warns:
            UserWarning: with the least agreement.
        """
        self.look(is_end=True)
        wanted = self.until.agreement
        if wanted is None or self.is_settled:
            return
        samples = min(self._samples.values())
        if not self.agreements:
            warn(
                f"until={wanted:g} cannot be judged on {samples} samples: expected at least "
                f"{GROUPS} of each condition"
            )
            return
        least, condition = min(
            (value, name) for name, own in self.agreements.items() for value in own.values()
        )
        where = f" of {condition!r}" if condition else ""
        if least < wanted:
            warn(
                f"the samples ended after {samples} of each condition with an estimated agreement"
                f"{where} of {least:.2f}, below until={wanted:g}: the top "
                f"{100 * self.until.fraction:g}% would be others on other samples; give more "
                "samples, or take coarser units or a larger fraction"
            )

    def state(self) -> dict[str, Tensor]:
        """Give what `resume` takes."""
        if self.until.agreement is None:
            return {}
        sums = {
            f"{number} {units}": sums
            for number, own in enumerate(self._sums.values())
            for units, sums in own.items()
        }
        counts = [*self._samples.values(), self._looked_at, self._in_a_row]
        return {**sums, "counts": torch.tensor(counts)}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        if self.until.agreement is None:
            return
        *samples, self._looked_at, self._in_a_row = state["counts"].tolist()
        self._samples = dict(zip(self._samples, samples, strict=True))
        for number, own in enumerate(self._sums.values()):
            for units in own:
                own[units] = state[f"{number} {units}"]
        # Not saved: it follows from the sums.
        self.agreements = self._estimated() if self._looked_at else {}

    def _estimated(self) -> dict[str, dict[str, float]]:
        return {
            condition: {
                units: population_agreement(
                    self._means(condition, units), fraction=self.until.fraction
                )
                for units in sums
            }
            for condition, sums in self._sums.items()
        }

    def _means(self, condition: str, units: str) -> Float[Tensor, "groups units"]:
        def mean(name: str) -> Tensor:
            samples = self._samples[name]
            counts = [len(range(group, samples, GROUPS)) for group in range(GROUPS)]
            return self._sums[name][units] / torch.tensor(counts, dtype=torch.float64)[:, None]

        # Agreement of what is asked for in the end: the contrast, where there are conditions.
        others = [mean(name) for name in self._sums if name != condition]
        return mean(condition) - sum(others) / len(others) if others else mean(condition)

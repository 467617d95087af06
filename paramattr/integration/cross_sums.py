"""Sums over samples of what two conditions have in common, unit by unit."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor

from paramattr.integration.reduction import Reduced
from paramattr.integration.sums import RunningSums
from paramattr.units.covariances import Covariances


class CrossSums:
    """Σ_x m(x_c) m(x_d) for every two conditions c and d, over samples of one number.

    So for the magnitudes m, and for the signed sums.

    A sample waits until every condition has come to its number. Conditions that take turns keep
    few waiting; those that hold different numbers of samples are not paired.

    Args:
        conditions: their names.
        units: how many.
    """

    def __init__(self, conditions: Sequence[str], units: int) -> None:
        self.products = {
            pair: torch.zeros(2, units, dtype=torch.float64) for pair in combinations(conditions, 2)
        }
        self.waiting: dict[str, deque[tuple[Tensor, Tensor]]] = {
            name: deque() for name in conditions
        }
        self.is_paired = len(conditions) > 1

    def add(self, condition: str, sample: Reduced, most: int) -> None:
        """Add one sample's magnitudes and signed sums.

        Args:
            condition: of the sample.
            sample: what each unit gets.
            most: how many samples may wait, where conditions take turns. More means that another
                condition has ended: the pairing is given up.
        """
        if not self.is_paired:
            return
        self.waiting[condition].append((sample.magnitudes, sample.signed))
        if all(self.waiting.values()):
            row = {name: samples.popleft() for name, samples in self.waiting.items()}
            for (one, other), product in self.products.items():
                for own, first, second in zip(product, row[one], row[other], strict=True):
                    own.addcmul_(first, second)
        elif len(self.waiting[condition]) > most:
            self._give_up()

    def covariances(self, sums: Mapping[str, RunningSums]) -> Covariances | None:
        """Give the covariances of the mean scores; None without pairs.

        Args:
            sums: of each condition.
        """
        [samples, *more] = {one.samples for one in sums.values()}
        if not self.is_paired or more or samples < 2:
            return None
        pairs = list(combinations_with_replacement(sums, 2))
        first = sums[pairs[0][0]]
        # Written where they stay: with single weights as units, every copy counts.
        found = torch.empty(2, len(pairs), len(first.magnitudes), dtype=torch.float64)
        for number, (one, other) in enumerate(pairs):
            own, its = sums[one], sums[other]
            same = own.squares, own.signed_squares
            products = same if one == other else self.products[one, other].unbind()
            totals = (own.magnitudes, its.magnitudes), (own.signed, its.signed)
            for place, product, (a, b) in zip(found[:, number], products, totals, strict=True):
                torch.mul(a, b, out=place).div_(-samples).add_(product)
                if one == other:
                    place.clamp_(min=0)
                place.div_(samples * (samples - 1))
        return Covariances(len(sums), *found)

    def state(self) -> dict[str, Tensor]:
        """Give what `resume` takes."""
        if not self.is_paired:
            return {}
        found = {"products": torch.stack(list(self.products.values()))}
        for number, samples in enumerate(self.waiting.values()):
            if samples:
                found[f"waiting {number}"] = torch.stack([torch.stack(own) for own in samples])
        return found

    def products_alone(self) -> dict[str, Tensor]:
        """Give what `resume` takes, without the samples that wait."""
        return {"products": torch.stack(list(self.products.values()))} if self.products else {}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        if "products" not in state:
            self._give_up()
            return
        self.products = dict(zip(self.products, state["products"].unbind(), strict=True))
        for number, name in enumerate(self.waiting):
            held = state.get(f"waiting {number}", torch.empty(0, 2, 0))
            self.waiting[name] = deque((own[0], own[1]) for own in held)

    def _give_up(self) -> None:
        self.is_paired, self.products = False, {}
        self.waiting = {name: deque() for name in self.waiting}

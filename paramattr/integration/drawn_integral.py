"""The integral of Eq. 5 with other nodes for each sample: many samples need few of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

from paramattr.errors import ModelError
from paramattr.integration.batches import Batch
from paramattr.integration.integrand import Integrand
from paramattr.integration.path_integral import (
    Integrated,
    PathIntegral,
    Stretch,
    Values,
    place,
    summed,
)
from paramattr.quadrature import drawn


class DrawnIntegral(PathIntegral):
    """The integral by `quadrature.drawn`: the k-th sample of a loader meets the k-th nodes.

    Args:
        integrand: the objective along a piecewise linear path.
        strata: nodes per sample, on each smooth piece of the path.

    Raises:
        ModelError: for a curved path, whose speed changes from sample to sample.
    """

    def __init__(self, integrand: Integrand, strata: int) -> None:
        if not integrand.path.is_piecewise_linear:
            raise ModelError(
                'method="drawn" and the path is curved: expected a piecewise linear path; take '
                "another method"
            )
        super().__init__(integrand, drawn(strata, 0))
        self.strata = strata

    @property
    def has_fixed_nodes(self) -> bool:
        """Say that each sample meets nodes of its own."""
        return False

    def of_sample(self, sample: Batch) -> PathIntegral:
        """Give the integral with the nodes of one sample, by its number in the loader."""
        rule = drawn(self.strata, sample.before + sample.first)
        own = copy.copy(self)
        own.stretches = [
            Stretch(place(rule.nodes, rule.weights, start, end), stretch.moving)
            for stretch, (start, end) in zip(
                self.stretches, pairwise(self.integrand.path.breakpoints), strict=True
            )
        ]
        return own

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch, sample by sample."""
        found = summed(list(self.samples(batch, whole=whole)))
        if len(batch) == 1:
            return found
        return found._replace(values=Values((), torch.zeros(0, len(batch))))  # no place is shared

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate for each sample separately, one after the other."""
        for sample in batch.chunks(1):
            yield PathIntegral.over(self.of_sample(sample), sample, whole=whole)

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        return {**self.integrand.settings(), "rule": {"name": "drawn", "nodes": self.strata}}

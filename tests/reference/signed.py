"""The mean of signed attributions and its error, from Eq. 6 sample by sample, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.reference.paired import paired_error


def signed_sums(attributions: Mapping[str, Tensor], index) -> Tensor:
    """Σ_{i in u} A_i(x) of each unit and sample, `(samples, units)`, entry by entry."""
    samples = len(next(iter(attributions.values())))
    sums = torch.zeros(samples, len(index), dtype=torch.float64)
    for name, labels in index.labels.items():
        units = labels.expand(index.shapes[name]).flatten().tolist()
        for sample in range(samples):
            entries = attributions[name][sample].flatten().tolist()
            for unit, entry in zip(units, entries, strict=True):
                if unit >= 0:
                    sums[sample, unit] += entry
    return sums


def signed_contrast(by_condition: list[Tensor], weights: list[float]) -> tuple[Tensor, Tensor]:
    """Σ_c w_c mean_x A_u(x_c), and its error over samples of one number."""
    parts = zip(weights, by_condition, strict=True)
    mean = torch.stack([weight * sums.mean(0) for weight, sums in parts]).sum(0)
    return mean, paired_error(by_condition, weights)

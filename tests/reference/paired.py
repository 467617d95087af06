"""The standard error of a contrast, from every sample's own scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def paired_error(by_condition: list[Tensor], weights: list[float]) -> Tensor:
    """Spread over samples of Σ_c w_c m_u(x_c), over √n; `(samples, units)` of each condition."""
    samples = len(by_condition[0])
    sums = [
        sum(w * own[k] for w, own in zip(weights, by_condition, strict=True))
        for k in range(samples)
    ]
    mean = sum(sums) / samples
    variance = sum((one - mean) ** 2 for one in sums) / (samples - 1)
    return torch.as_tensor(variance).sqrt() / math.sqrt(samples)

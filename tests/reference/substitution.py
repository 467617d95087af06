"""Each unit's values written into a copy of the target, one unit and one sample at a time."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from paramattr import UnitIndex


def substitution_effects(
    target: nn.Module, baseline: nn.Module, index: UnitIndex, loss, samples
) -> Tensor:
    """`loss` of a model and a sample; `(samples, units)`."""
    rows = []
    for sample in samples:
        own = loss(target, sample)
        row = []
        for unit in range(len(index)):
            chosen = torch.zeros(len(index), dtype=torch.bool)
            chosen[unit] = True
            edited = copy.deepcopy(target)
            names = [*dict(edited.named_parameters()), *index.buffers]
            for name in names:
                mask = index.mask(name, chosen)
                mine, other = edited.get_parameter, baseline.get_parameter
                if name in index.buffers:
                    mine, other = edited.get_buffer, baseline.get_buffer
                with torch.no_grad():
                    mine(name)[mask] = other(name)[mask]
            row.append(loss(edited, sample) - own)
        rows.append(torch.stack(row))
    return torch.stack(rows)

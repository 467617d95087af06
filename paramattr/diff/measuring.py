"""What a model is worth on each condition, and what it loses with units taken away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.diff.material import Material
from paramattr.integration.batches import Batch
from paramattr.methods.random import random_scores_of, random_within_layers
from paramattr.objectives import cross_entropy, prediction
from paramattr.parameters import Baseline
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.surgery.edits import substituted
from paramattr.units.selection import Selection

LEAST_GAIN = 0.01
"""Share of the objective that two models must differ by for one to be called better."""


@dataclass(frozen=True)
class Worth:
    """What a model is worth on the samples of one condition.

    Attributes:
        objective: its mean.
        accuracy: the share of samples whose class is right; None without classes.
    """

    objective: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Loss:
    """What one condition loses with some units masked.

    Attributes:
        units: the kind of unit.
        sought: the condition whose units they are.
        measured: the condition that was measured.
        masked: how many units.
        change: of the mean objective, masked minus the tuned model.
        random: the same for random units, the mean of the draws; None where none can be drawn.
        accuracy: with the units masked; None without classes.
        random_accuracy: with random units masked.
    """

    units: str
    sought: str
    measured: str
    masked: int
    change: float
    random: float | None
    accuracy: float | None = None
    random_accuracy: float | None = None


def is_small(tuned: float, base: float) -> bool:
    """Say whether two models' objectives differ by nothing to speak of.

    >>> is_small(0.6936, 0.6938), is_small(0.4, 0.6)
    (True, False)
    """
    return abs(base - tuned) <= LEAST_GAIN * max(abs(base), abs(tuned))


def worths(model: nn.Module, material: Material, ranks: Ranks = ALONE) -> dict[str, Worth]:
    """Measure a model on every condition; each rank takes its share of the batches."""
    with undisturbed(model), torch.no_grad():
        sums = {
            name: _sums(model, batches, material, ranks)
            for name, batches in material.conditions.items()
        }
    ranks.meet()
    return {name: _worth(added) for name, added in ranks.added(sums).items()}


def losses(
    material: Material,
    toward: Baseline,
    selection: Selection,
    own: dict[str, Worth],
    *,
    units: str,
    sought: str,
    draws: int,
    ranks: Ranks = ALONE,
) -> list[Loss]:
    """Exchange some units, and as many random ones, for those of another model.

    Args:
        material: the models and the data.
        toward: the model that the values come from, or a mapping of names to tensors.
        selection: the units.
        own: what the target is worth.
        units: the kind of unit, for the result.
        sought: the condition whose units they are, for the result.
        draws: how many random selections. They hold as many units of each layer as `selection`;
            where a layer has one unit alone, they are drawn from the whole model.
        ranks: the processes that share the batches.

    Returns:
        One entry per measured condition.
    """
    found = _masked(material, toward, selection, ranks)
    controls = [_masked(material, toward, control(selection, seed), ranks) for seed in range(draws)]
    rows = []
    for measured, worth in found.items():
        others = [one[measured] for one in controls]
        rows.append(
            Loss(
                units,
                sought,
                measured,
                len(selection),
                worth.objective - own[measured].objective,
                fmean(one.objective for one in others) - own[measured].objective,
                worth.accuracy,
                _mean(one.accuracy for one in others),
            )
        )
    return rows


def control(selection: Selection, seed: int) -> Selection:
    """Draw as many random units of each layer, or of the model where its layers have one each."""
    layers = selection.index.layers().values()
    if all(len(own) == 1 for own in layers):
        scores = random_scores_of(selection.index, seed=seed)
    else:
        scores = random_within_layers(selection, seed=seed)
    return scores.top(count=len(selection), warn=False)


def _masked(
    material: Material, toward: Baseline, selection: Selection, ranks: Ranks
) -> dict[str, Worth]:
    with substituted(material.target, toward, selection) as edited:
        return worths(edited, material, ranks)


def _sums(
    model: nn.Module, batches: Iterable[Any], material: Material, ranks: Ranks
) -> Float[Tensor, "4"]:
    """Sum the objective over samples; count these, the right answers and what was asked."""
    found = torch.zeros(4, dtype=torch.float64)
    for item in islice(batches, ranks.rank, None, ranks.size):
        batch = Batch.from_loader(item, model=model)
        output = model(*batch.arguments, **batch.keywords)
        found[0] += material.objective(output, batch.targets).double().sum().cpu()
        found[1] += len(batch)
        if material.objective is cross_entropy and _are_classes(output, batch.targets):
            found[2] += int((prediction(output).argmax(1) == batch.targets).sum())
            found[3] += len(batch)
    return found


def _worth(sums: Float[Tensor, "4"]) -> Worth:
    total, samples, right, asked = sums.tolist()
    return Worth(total / samples, right / asked if asked else None)


def _are_classes(output: Any, targets: Any) -> bool:
    logits = prediction(output)
    return isinstance(targets, Tensor) and targets.ndim == 1 and logits.ndim == 2


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

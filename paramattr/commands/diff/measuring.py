"""Measurements: the distance, nodes until attributions add up, and losses by masking."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.commands.diff.material import Material
from paramattr.integration.batches import Batch
from paramattr.methods.random import random_scores_of, random_within_layers
from paramattr.objectives import cross_entropy, prediction
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.surgery.edits import substituted
from paramattr.units.selection import Selection


@dataclass(frozen=True)
class Distance:
    """The distance of two models.

    Attributes:
        relative: Euclidean length of the change over that of the baseline's parameters.
        cosine: cosine between the two models' parameters.
        parameters: number of parameters.
        changed: number that differs.
    """

    relative: float
    cosine: float
    parameters: int
    changed: int


def distance_of(material: Material) -> Distance:
    """Measure how far the two models are apart."""
    own, other = named_parameters(material.target), align(material.target, material.baseline)
    squares = torch.zeros(4, dtype=torch.float64)
    changed = 0
    for name, value in own.items():
        here, there = value.double().cpu(), other[name].double().cpu()
        squares += torch.stack(
            [((here - there) ** 2).sum(), (there**2).sum(), (here**2).sum(), (here * there).sum()]
        )
        changed += int((here != there).sum())
    apart, base, tuned, product = squares.tolist()
    return Distance(
        (apart / base) ** 0.5 if base else float("inf"),
        product / (base * tuned) ** 0.5 if base and tuned else float("nan"),
        sum(value.numel() for value in own.values()),
        changed,
    )


LADDER = (2, 4, 8, 16, 32)
"""Numbers of nodes that are tried, one after the other."""
SETTLED = 0.05
"""The residual from which on attributions do not add up."""

Residuals = dict[str, float]
"""A condition to what its attributions miss of the objective's change; NaN where that is zero."""


@dataclass(frozen=True)
class Look:
    """A try of some nodes, and what they miss on the first samples of each condition."""

    nodes: int
    residual: Residuals


@dataclass(frozen=True)
class Nodes:
    """The number of nodes that was taken, and why.

    Attributes:
        taken: their number.
        looks: tries with fewer and with this number, in their order; none where it was given.
    """

    taken: int
    looks: tuple[Look, ...] = ()


def settled(look: Callable[[int], Residuals], kept: int | None = None) -> Nodes:
    """Raise the nodes until the attributions of every condition add up, or there are no more.

    Args:
        look: function from a number of nodes to what they miss.
        kept: number of nodes of the run that is resumed, which stays if it is enough.

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
        nodes: the nodes that were taken.
        residual: residual of the scores, by condition.
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


LEAST_GAIN = 0.01
"""Share of the objective that two models must differ by for one to be called better."""


@dataclass(frozen=True)
class Worth:
    """The worth of a model on the samples of one condition.

    Attributes:
        objective: mean of the objective.
        accuracy: share of samples whose class is right; None without classes.
    """

    objective: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Loss:
    """The loss of one condition with some units masked.

    Attributes:
        units: kind of unit.
        sought: condition whose units they are.
        measured: condition that was measured.
        masked: number of units.
        change: change of the mean objective, masked minus the tuned model.
        random: change with random units masked, the mean of the draws; None where none can be
            drawn.
        accuracy: accuracy with the units masked; None without classes.
        random_accuracy: accuracy with random units masked.
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
        own: worth of the target, by condition.
        units: the kind of unit, for the result.
        sought: the condition whose units they are, for the result.
        draws: number of random selections. They hold as many units of each layer as `selection`;
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
                mean_of_known(one.accuracy for one in others),
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


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Take the mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

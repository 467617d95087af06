"""A small project as a user writes it; `tests/test_typing.py` has it checked with --strict."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    Scores,
    Selection,
    Unit,
    contrast,
    cross_entropy,
    fisher_times_change,
    gradient_times_change,
    substitute,
)
from paramattr.objectives import Objective


def readme(
    target: nn.Module,
    baseline: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    objective: Objective,
    unit: str,
    blurry: DataLoader[tuple[Tensor, ...]],
    noisy: DataLoader[tuple[Tensor, ...]],
) -> nn.Module:
    faig = FAIG(target, baseline, objective=objective)
    attr = faig.attribute(inputs, targets)
    print(sum(value.abs().sum() for value in attr.values()))
    loaders = {"blur": blurry, "noise": noisy}
    scores = faig.score(loaders, reducer=unit)
    found = contrast(scores["blur"], scores["noise"]).top(fraction=0.01)
    lost = substitute(target, baseline, found)
    barrier = faig.path_profile(blurry).barrier
    return lost if barrier < 1 else target


def delta(faig: FAIG, images: Tensor) -> float:
    attr, missing = faig.attribute(images, return_convergence_delta=True, per_sample=True)
    print(attr.keys())
    return missing.abs().max().item()


def conditions(
    target: nn.Module, baseline: nn.Module, loaders: dict[str, list[tuple[Tensor, Tensor]]]
) -> Mapping[str, Selection]:
    faig = FAIG(target, baseline, objective=cross_entropy)
    by_condition = faig.score(loaders, reducer="attention_head")
    for name, scores in by_condition.items():
        print(name, scores.top(count=3).by_layer())
    by_both = faig.score(loaders, reducer=["neuron", "layer"], n_steps=4)
    layers: dict[str, float] = by_both["blur"]["layer"].by_layer()
    by_reducer = faig.score(loaders["blur"], reducer=["neuron", "layer"])
    neurons: Scores = by_reducer["neuron"]
    print(layers, neurons)
    return {name: scores.top(fraction=0.01) for name, scores in by_condition.items()}


def others(target: nn.Module, baseline: nn.Module, loader: list[Tensor]) -> list[Unit]:
    taylor = gradient_times_change(target, baseline, loader, reducer="neuron", at="middle")
    fisher = fisher_times_change(target, baseline, loader)
    paths = InputPathIntegratedGradients(target).score(loader, reducer="kernel")
    each = gradient_times_change(target, baseline, {"a": loader}, reducer="layer")
    print(fisher.values.mean(), paths.unassigned, each["a"].rank())
    units: list[Unit] = [unit for unit, _ in taylor]
    first: tuple[Unit, float] = taylor[0]
    chosen: list[Unit] = list(taylor.top(count=2))
    return [*units, first[0], *chosen]


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.zeros(4, 3), torch.zeros(4)), batch_size=2)

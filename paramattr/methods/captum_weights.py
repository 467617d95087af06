"""Captum's integrated gradients over the weights, an independent check of FAIG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paramattr.hooked import copied
from paramattr.integration.batches import Batch, mapped
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.model import FunctionalModel
from paramattr.methods.captum import captum_attr, check_rule, cloned
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.runtime.isolation import undisturbed


def captum_over_weights(
    model: nn.Module,
    baseline: Baseline,
    inputs: Tensor | tuple[Tensor, ...],
    targets: Any = None,
    *,
    objective: Objective = squared_error,
    n_steps: int = 16,
    method: str = "gausslegendre",
    per_sample: bool = False,
) -> dict[str, Tensor]:
    """Attribute as FAIG does, by Captum's `IntegratedGradients` with the weights as its inputs.

    Captum integrates from a baseline to an input. With the target's weights as its "baseline" and
    the baseline's weights as its "input", this is Eq. 6. It checks `FAIG.attribute` independently,
    on small models (`n_steps` copies of all weights are held at once).

    Captum rounds its rules' weights to float32, whatever the model's precision, so the two agree to
    about 1e-7. The weights of its trapezoid sum to `1 - 1 / n_steps`; FAIG's sum to 1.

    Args:
        model: the target, in evaluation mode; it is copied.
        baseline: the model it is compared with, or a mapping of names to tensors.
        inputs: as in `FAIG.attribute`.
        targets: as in `FAIG.attribute`.
        objective: `(output, targets)` to a tensor `(B,)`.
        n_steps: nodes of the rule.
        method: one of Captum's rules, as `quadrature` in `captum_scores`.
        per_sample: whether to keep the samples apart.

    Returns:
        Names to attributions shaped like the parameters, summed over the batch, or `(B, *shape)`
        with `per_sample`; positive where the change lowered the objective, as in `FAIG`.

    Raises:
        ParamattrError: if Captum is not installed, for an unknown rule, and as `FAIG.attribute`.

    Source: Xie et al. 2021, Eq. 6; Captum 0.9 (Kokhlikyan et al. 2020).

    >>> target, baseline = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(target.weight, 1.0), nn.init.constant_(baseline.weight, 3.0)
    >>> attr = captum_over_weights(target, baseline, torch.ones(1, 1), torch.zeros(1, 1))
    >>> round(attr["weight"].item(), 4)  # 3 squared minus 1 squared
    8.0
    """
    attr = captum_attr()
    check_rule(method, n_steps)
    check_callable(objective)
    with undisturbed(model):
        weights, other = named_parameters(model), align(model, baseline)
        # Copy, since functional_call does not restore a module with two names.
        frozen = copied(model).requires_grad_(False)
        values = ObjectiveOfParameters(FunctionalModel(frozen), objective)
        batch = Batch.of(inputs, targets, device=next(iter(weights.values())).device)
        samples = []
        for sample in batch.chunks(1):
            values.values(weights, sample)

            def of_weights(rows: Tensor, sample: Batch = sample) -> Tensor:
                outputs = (
                    functional_call(frozen, _unflattened(row, weights), cloned(sample).inputs)
                    for row in rows
                )
                targets = sample.targets  # cloned, since the objective may modify them
                return torch.cat([objective(o, mapped(targets, torch.clone)) for o in outputs])

            attributions = attr.IntegratedGradients(of_weights).attribute(
                _flattened(other), baselines=_flattened(weights), n_steps=n_steps, method=method
            )
            samples.append(_unflattened(attributions[0].detach(), weights))
        stacked = {name: torch.stack([each[name] for each in samples]) for name in weights}
    return stacked if per_sample else {name: value.sum(0) for name, value in stacked.items()}


def _flattened(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])[None]


def _unflattened(row: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = row.split([value.numel() for value in like.values()])
    return {
        name: part.view(value.shape).to(value.dtype)
        for part, (name, value) in zip(parts, like.items(), strict=True)
    }

"""Captum's integrated gradients over a model's flattened weights, one sample at a time.

Captum integrates over inputs from a baseline to an input. With the weights in the inputs' place,
the target's as its "baseline" and the baseline's as its "input", that is Eq. 6.
"""

import copy

import torch
from captum.attr import IntegratedGradients
from torch.func import functional_call


def attributions(
    model, baseline, objective, inputs, targets, *, n_steps, method
) -> dict[str, torch.Tensor]:
    """Names to `(B, *shape)`."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    model = copy.deepcopy(model)  # functional_call does not restore a module that has two names
    own = {name: value.detach() for name, value in model.named_parameters()}
    other = {name: value.detach() for name, value in baseline.named_parameters()}
    samples = []
    for sample in range(inputs[0].shape[0]):
        one = tuple(tensor[sample : sample + 1] for tensor in inputs)
        target = None if targets is None else targets[sample : sample + 1]

        def of_weights(rows: torch.Tensor, one=one, target=target) -> torch.Tensor:
            values = [
                objective(functional_call(model, _unflattened(row, own), one), target)
                for row in rows
            ]
            return torch.cat(values)

        found = IntegratedGradients(of_weights).attribute(
            _flattened(other), baselines=_flattened(own), n_steps=n_steps, method=method
        )
        samples.append(_unflattened(found[0], own))
    return {name: torch.stack([each[name] for each in samples]) for name in own}


def _flattened(values: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in values.values()])[None]


def _unflattened(row: torch.Tensor, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = row.split([value.numel() for value in like.values()])
    return {
        name: part.view(value.shape)
        for part, (name, value) in zip(parts, like.items(), strict=True)
    }

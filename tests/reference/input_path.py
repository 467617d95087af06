"""The paper's modified IG as explicit loops, and by Captum over inputs and weights together.

For one image: walk from the clean to the degraded input in steps, at each take the gradient of the
sum of the output by the weights, and add these up; nothing is multiplied by a difference.
"""

import copy

import torch
from captum.attr import IntegratedGradients
from torch.func import functional_call


def several(inputs) -> tuple[torch.Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def attributions(model, inputs, baselines, nodes, weights) -> dict[str, torch.Tensor]:
    """Every sample's integral: names to `(B, *shape)`."""
    inputs, baselines = several(inputs), several(baselines)
    working = copy.deepcopy(model)
    samples = inputs[0].shape[0]
    found = {
        name: torch.zeros(samples, *value.shape, dtype=torch.float64)
        for name, value in working.named_parameters()
    }
    for sample in range(samples):
        for alpha, weight in zip(nodes, weights, strict=True):
            point = tuple(
                clean[sample : sample + 1]
                + alpha * (degraded[sample : sample + 1] - clean[sample : sample + 1])
                for clean, degraded in zip(baselines, inputs, strict=True)
            )
            working.zero_grad(set_to_none=True)
            working(*point).sum().backward()
            for name, parameter in working.named_parameters():
                if parameter.grad is not None:
                    found[name][sample] += weight * parameter.grad
    return found


def by_captum(model, inputs, baselines, *, n_steps, method) -> dict[str, torch.Tensor]:
    """Captum's integrated gradients over `(input, weights)`, where the weights stay in place."""
    inputs, baselines = several(inputs), several(baselines)
    model = copy.deepcopy(model)
    own = {name: value.detach() for name, value in model.named_parameters()}
    held = tuple(value[None] for value in own.values())

    def summed(*rows: torch.Tensor) -> torch.Tensor:
        values = []
        for row in range(len(rows[0])):
            point = tuple(part[row : row + 1] for part in rows[: len(inputs)])
            parts = (part[row] for part in rows[len(inputs) :])
            state = dict(zip(own, parts, strict=True))
            values.append(functional_call(model, state, point).sum())
        return torch.stack(values)

    integrated = IntegratedGradients(summed, multiply_by_inputs=False)
    samples = []
    for sample in range(len(inputs[0])):
        one = slice(sample, sample + 1)
        found = integrated.attribute(
            (*(part[one] for part in inputs), *held),
            baselines=(*(part[one] for part in baselines), *held),
            n_steps=n_steps,
            method=method,
        )
        samples.append([part[0] for part in found[len(inputs) :]])
    return {
        name: torch.stack([sample[place] for sample in samples]) for place, name in enumerate(own)
    }

"""Eq. 6 and 7 of Xie et al. 2021 as explicit loops."""

import copy

import torch


def attributions(
    model, baseline, objective, inputs, targets, nodes, weights, extra=()
) -> dict[str, torch.Tensor]:
    """Eq. 6 for every sample: names to `(B, *shape)`.

    For each sample and each node: load theta + alpha (theta_bar - theta) into a copy of the model,
    run it on the one sample, call `backward`, read `.grad`.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    theta = {name: value.detach().clone() for name, value in model.named_parameters()}
    theta_bar = {name: value.detach().clone() for name, value in baseline.named_parameters()}
    samples = inputs[0].shape[0]
    found = {name: torch.zeros(samples, *value.shape).double() for name, value in theta.items()}
    working = copy.deepcopy(model)
    for parameter in working.parameters():
        parameter.requires_grad_(True)
    for sample in range(samples):
        own = tuple(tensor[sample : sample + 1] for tensor in inputs)
        target = None if targets is None else targets[sample : sample + 1]
        more = tuple(e[sample : sample + 1] if isinstance(e, torch.Tensor) else e for e in extra)
        for alpha, weight in zip(nodes, weights, strict=True):
            with torch.no_grad():
                for name, parameter in working.named_parameters():
                    change = theta_bar[name] - theta[name]
                    parameter.copy_(theta[name] + alpha * change)
            working.zero_grad(set_to_none=True)
            objective(working(*own, *more), target).sum().backward()
            for name, parameter in working.named_parameters():
                if parameter.grad is not None:
                    change = (theta_bar[name] - theta[name]).double()
                    found[name][sample] += weight * parameter.grad.double() * change
    return found


def kernel_scores(attribution: torch.Tensor) -> list[list[float]]:
    """Each term of Eq. 7 for the kernels of one convolution: the mean over samples of |FAIG|.

    `attribution` is `(B, out, in, ...)`; the magnitudes of a kernel's entries are added up, one
    sample at a time, and only then averaged.
    """
    samples, outs, ins = attribution.shape[:3]
    scores = [[0.0] * ins for _ in range(outs)]
    for out in range(outs):
        for inn in range(ins):
            for sample in range(samples):
                for entry in attribution[sample, out, inn].flatten().tolist():
                    scores[out][inn] += abs(entry) / samples
    return scores

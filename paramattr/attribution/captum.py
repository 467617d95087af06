"""Scores of layers' output channels by Captum's layer methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from numbers import Integral
from types import ModuleType
from typing import Any

import torch
from torch import nn

from paramattr.attribution.captum_layers import (
    CaptumMethod,
    ObjectiveOfInputs,
    attribution,
    watched_layers,
)
from paramattr.attribution.captum_samples import captum_samples
from paramattr.errors import ParamattrError
from paramattr.hooked import copied
from paramattr.identity import likeness
from paramattr.integration.accumulation import Reduced
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.model import FunctionalModel
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import named_parameters
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.ranks import Distributed, Ranks, sketch
from paramattr.scoring.run import Options, stream
from paramattr.scoring.state import Sample
from paramattr.units.scores import Scores
from paramattr.wrappers import unwrapped

_ALONG_A_PATH = ("baselines", "n_steps", "method")

CAPTUM_METHODS: dict[str, CaptumMethod] = {
    "layer-conductance": CaptumMethod("LayerConductance", _ALONG_A_PATH),
    "internal-influence": CaptumMethod("InternalInfluence", _ALONG_A_PATH),
    "layer-integrated-gradients": CaptumMethod("LayerIntegratedGradients", _ALONG_A_PATH),
    "layer-gradient-x-activation": CaptumMethod("LayerGradientXActivation"),
    "layer-feature-ablation": CaptumMethod(
        "LayerFeatureAblation", ("layer_mask", "perturbations_per_eval")
    ),
}

_RULES = (
    "gausslegendre",
    "riemann_left",
    "riemann_middle",
    "riemann_right",
    "riemann_trapezoid",
)


def captum_scores(
    method: str,
    model: nn.Module,
    layers: Iterable[str],
    loader: Iterable[Any],
    *,
    objective: Objective = squared_error,
    embedding: str | None = None,
    n_steps: int = 16,
    quadrature: str = "gausslegendre",
    show_progress: bool = False,
    distributed: Distributed = False,
) -> Scores:
    """Score the output channels of some layers by one of Captum's layer methods.

        S_c = 1/|X| Σ_{x in X} Σ_p |A_{c,p}(x)|

    with A the method's attribution of the objective to channel c of the layer's output at
    position p. An ablation gives one number per channel, so nothing is summed over positions. The
    units are those of `FAIG.score(loader, reducer=only("output_channel", layers))`, so the two
    are comparable. Captum looks at the activations of one model: it sees neither kernels nor a
    change of parameters.

    Captum's conventions are kept. Its conductance multiplies each node's gradient by the step to
    the next node, so it is complete only as `n_steps` grows, even with `"gausslegendre"`. A layer's
    integrated gradients vary only the layer's activation. The input stays at the end of its path,
    so whatever bypasses the layer does not vary. An ablation sets a channel to zero.

    Args:
        method: a name from `CAPTUM_METHODS`.
        model: in evaluation mode, with one floating-point input, or tokens; it is copied.
        layers: names of convolutions (plain, grouped or transposed) and linear layers.
        loader: batches `((inputs, baselines), targets)`. Captum's paths start at the baselines,
            which have the inputs' shape (in the study, the clean images). With `(inputs, targets)`
            or inputs alone, the baselines are zeros. A pair means inputs and baselines only if it
            is inside another pair. Gradient times activation and ablation use no baseline.
        objective: `(output, targets)` to a tensor `(B,)`.
        embedding: for a model of tokens or keyword arguments: the name of the module that embeds
            the tokens. Captum varies its output, starting from zeros. By default, the module that
            the model names (`get_input_embeddings`), or its only embedding.
        n_steps: nodes of the path; conductance takes one more. A sample's nodes run in one batch.
        quadrature: Captum's `method`: `"gausslegendre"`, `"riemann_left"`, `"riemann_middle"`,
            `"riemann_right"` or `"riemann_trapezoid"` (whose weights sum to `1 - 1 / n_steps`).
        show_progress: show a progress bar on stderr.
        distributed: as in `FAIG.score`.

    Returns:
        Scores of the layers' output channels, not negative.

    Raises:
        ParamattrError: if Captum is not installed, or for an unknown method or rule.
        UnitError: if a layer is unknown, of another kind, or has no weight of its own.
        ModelError: if a layer does not run exactly once, its output is not `(B, C, ...)` (for a
            linear layer, `(B, ..., C)`), or the model is in training mode.
        DataError: if the loader gives no batch, or inputs and baselines do not match.
        ObjectiveError: if the objective does not give one finite number per sample.

    Source: Captum 0.9 (Kokhlikyan et al. 2020); "internal-influence" is IntInf of Leino et al.
    2018, "layer-conductance" is Dhamdhere et al. 2019.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False))
    >>> _ = nn.init.constant_(model[0].weight, 3.0)
    >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
    >>> scores = captum_scores("layer-gradient-x-activation", model, ["0"], [batch])
    >>> scores.values.tolist()  # the output 3, times the gradient 6 of its square
    [18.0]
    """
    ranks = Ranks(distributed)
    with ranks.together():
        attr, chosen = captum_attr(), CAPTUM_METHODS.get(method)
        if chosen is None:
            raise ParamattrError(
                f"method {method!r} is not known: expected one of {', '.join(CAPTUM_METHODS)}"
            )
        check_rule(quadrature, n_steps)
        check_callable(objective)
        model, layers = unwrapped(model), layers if isinstance(layers, str) else list(layers)
    with ranks.together(), undisturbed(model):
        parameters = named_parameters(model)
        if ranks.size > 1:
            ranks.compare("the model", sketch(parameters))
            ranks.compare("the objective", likeness(objective))
            settings = [method, layers, embedding, n_steps, quadrature]
            ranks.compare("the settings", likeness(settings))
        frozen = copied(model).requires_grad_(False)
        watched, index = watched_layers(frozen, layers, objective)
        values = ObjectiveOfParameters(FunctionalModel(frozen), objective)
        path, is_first = {"n_steps": n_steps, "method": quadrature}, True

        def check(condition: str, batch: Batch) -> Batch:
            nonlocal is_first
            for sample in captum_samples(frozen, batch, embedding):
                values.values(parameters, sample.batch)  # errors surface before the work
                for layer in watched if is_first else ():
                    ObjectiveOfInputs(layer, sample).check(chosen)
                is_first = False
            return batch

        def work(batch: Batch) -> Iterator[Sample]:
            for sample in captum_samples(frozen, batch, embedding):
                sums = [torch.zeros(len(index), dtype=torch.float64) for _ in range(2)]
                for layer in watched:
                    attributions = attribution(attr, chosen, ObjectiveOfInputs(layer, sample), path)
                    for place, value in zip(sums, (attributions.abs(), attributions), strict=True):
                        place[layer.units] += layer.reduced(value, chosen)
                yield Sample({method: Reduced(sums[0], sums[1])})

        device = next(iter(parameters.values())).device
        return stream(
            [work],
            {"": loader},
            {method: index},
            Options(show_progress=show_progress, ranks=ranks),
            read=partial(Batch.from_loader, device=device, model=model),
            check=check,
        ).scores()[""][method]


def check_rule(name: str, n_steps: int) -> None:
    """Reject a rule that Captum lacks, or a number of nodes that the rule does not support."""
    if name not in _RULES:
        raise ParamattrError(
            f"rule {name!r} is not one of Captum's: expected one of {', '.join(_RULES)}"
        )
    least = 1 if name == "gausslegendre" else 2
    if isinstance(n_steps, bool) or not isinstance(n_steps, Integral) or n_steps < least:
        raise ParamattrError(
            f"n_steps is {n_steps!r}: expected a whole number of at least {least} for Captum's "
            f"{name!r}"
        )


def captum_attr() -> ModuleType:
    """Import `captum.attr`, or say how to install it."""
    try:
        import captum.attr
    except ModuleNotFoundError:
        raise ParamattrError(
            "this needs Captum, which is not installed: pip install 'paramattr[captum]'"
        ) from None
    return captum.attr

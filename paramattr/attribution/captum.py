"""Captum's layer methods brought to parameter units: the output channels of layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramattr.errors import DataError, ModelError, ObjectiveError, ParamattrError, UnitError
from paramattr.integration.batches import Batch
from paramattr.integration.functional import FunctionalModel
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.streaming import stream
from paramattr.integration.sums import Reduced, Sample
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import named_parameters, owners
from paramattr.runtime.isolation import undisturbed
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import only
from paramattr.units.scores import Scores


class CaptumMethod(NamedTuple):
    """A class of `captum.attr`, and the arguments that its `attribute` takes beside the inputs."""

    layer_class: str
    arguments: tuple[str, ...] = ()

    @property
    def ablates(self) -> bool:
        """Say whether it takes channels away, and needs no gradient."""
        return "layer_mask" in self.arguments


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
_KINDS = nn.modules.conv._ConvNd | nn.Linear
_ABLATIONS_AT_ONCE = 16


def captum_scores(
    method: str,
    model: nn.Module,
    layers: Iterable[str],
    loader: Iterable[Any],
    *,
    objective: Objective = squared_error,
    n_steps: int = 16,
    quadrature: str = "gausslegendre",
    show_progress: bool = False,
) -> Scores:
    """Score the output channels of some layers by one of Captum's layer methods.

        S_c = 1/|X| Σ_{x in X} Σ_p |A_{c,p}(x)|

    with A the method's attribution of the objective to channel c of the layer's output at
    position p. An ablation has one number a channel, which is not summed over positions. The
    units are those of `FAIG.score(loader, reducer=only("output_channel", layers))`, so the two
    compare. Captum looks at activations of one model: it knows no kernels, and no change of
    parameters.

    Captum's own habits stay. Its conductance takes each node's gradient times the step to the next
    node, and so is complete only as `n_steps` grows, with `"gausslegendre"` too. The integrated
    gradients of a layer move its activation alone, while the input stays at its end: what runs
    past the layer does not move. An ablation puts zeros in a channel's place.

    Args:
        method: a name from `CAPTUM_METHODS`.
        model: in evaluation mode, a module of one floating-point input; it is copied.
        layers: names of convolutions (plain, grouped or transposed) and linear layers.
        loader: `((inputs, baselines), targets)` batches, where Captum's paths start at the
            baselines, of the inputs' shape (in the study, the clean images); or `(inputs,
            targets)`, or inputs alone, for baselines of zeros. A pair is of inputs and baselines
            only inside another. Gradient times activation, and ablation, look at no baseline.
        objective: `(output, targets)` to a tensor `(B,)`.
        n_steps: nodes of the path; conductance takes one more. A sample's nodes run at once.
        quadrature: Captum's `method`: `"gausslegendre"`, `"riemann_left"`, `"riemann_middle"`,
            `"riemann_right"` or `"riemann_trapezoid"` (whose weights sum to `1 - 1 / n_steps`).
        show_progress: draw a bar on stderr.

    Returns:
        Scores of the layers' output channels, not negative.

    Raises:
        ParamattrError: if Captum is not installed, or for an unknown method or rule.
        UnitError: if a layer is unknown, of another kind, or has no units of its own.
        ModelError: if a layer does not run exactly once, its output is not `(B, C, ...)`, or
            `(B, ..., C)` of a linear layer, or the model is in training mode.
        DataError: if the loader gives no batch, or inputs and baselines that do not match.
        ObjectiveError: if the objective does not give one finite number a sample.

    Source: Captum 0.9 (Kokhlikyan et al. 2020); "internal-influence" is IntInf of Leino et al.
    2018, "layer-conductance" is Dhamdhere et al. 2019.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False))
    >>> _ = nn.init.constant_(model[0].weight, 3.0)
    >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
    >>> scores = captum_scores("layer-gradient-x-activation", model, ["0"], [batch])
    >>> scores.values.tolist()  # the output 3, times the gradient 6 of its square
    [18.0]
    """
    attr, chosen = captum_attr(), CAPTUM_METHODS.get(method)
    if chosen is None:
        raise ParamattrError(
            f"method {method!r} is not known: expected one of {', '.join(CAPTUM_METHODS)}"
        )
    check_rule(quadrature, n_steps)
    check_callable(objective)
    with undisturbed(model):
        parameters = named_parameters(model)
        copied = copy.deepcopy(model).requires_grad_(False)
        watched, index = _watched(copied, layers, objective)
        values = ObjectiveOfParameters(FunctionalModel(copied), objective)
        is_first = True

        def check(condition: str, batch: Batch) -> Batch:
            nonlocal is_first
            for sample, _ in _with_baselines(batch):
                values.values(parameters, sample)  # what is wrong shows before the work
                for layer in watched if is_first else ():
                    _ObjectiveOfInputs(layer, sample.targets).check(sample, chosen)
                is_first = False
            return batch

        def work(batch: Batch) -> Iterator[Sample]:
            for sample, baselines in _with_baselines(batch):
                path = {"baselines": baselines, "n_steps": n_steps, "method": quadrature}
                sums = [torch.zeros(len(index), dtype=torch.float64) for _ in range(2)]
                for layer in watched:
                    function = _ObjectiveOfInputs(layer, sample.targets)
                    found = _attribution(attr, chosen, function, sample, path)
                    for place, given in zip(sums, (found.abs(), found), strict=True):
                        place[layer.units] += layer.reduced(given, chosen)
                yield Sample({method: Reduced(sums[0], sums[1])})

        device = next(iter(parameters.values())).device
        return stream(
            [work],
            {"": loader},
            {method: index},
            read=partial(Batch.from_loader, device=device),
            check=check,
            show_progress=show_progress,
        )[""][method]


@dataclass(frozen=True)
class _Layer:
    """A layer whose output channels are units."""

    model: nn.Module
    objective: Objective
    name: str
    units: slice

    @property
    def module(self) -> nn.Module:
        return self.model.get_submodule(self.name)

    @property
    def channel(self) -> int:
        return -1 if isinstance(self.module, nn.Linear) else 1

    def check_output(self, output: Any, samples: int) -> None:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        weight = self.module.get_parameter("weight")
        plain = isinstance(output, Tensor) and (self.channel < 0 or output.ndim == weight.ndim)
        if not plain or output.ndim < 2 or output.shape[0] != samples:
            raise ModelError(
                f"layer {self.name!r} gives {found} for {samples} samples: expected a tensor with "
                "the batch first, by which Captum tells samples apart; leave this layer out"
            )
        units = self.units.stop - self.units.start
        if output.shape[self.channel] != units:
            raise UnitError(
                f"layer {self.name!r} gives {output.shape[self.channel]} channels, in the shape "
                f"{found}, and its weight makes {units}: expected one channel a unit; leave this "
                "layer out"
            )

    def mask(self, output: Tensor) -> Tensor:
        shape = [1] * output.ndim
        shape[self.channel] = output.shape[self.channel]
        return torch.arange(output.shape[self.channel], device=output.device).reshape(shape)

    def reduced(self, attribution: Tensor, method: CaptumMethod) -> Tensor:
        flat = attribution.detach().double().movedim(self.channel, 0).flatten(1).cpu()
        return flat[:, 0] if method.ablates else flat.sum(1)  # a channel's ablation is one number


class _ObjectiveOfInputs:
    """The objective of one sample's targets, as Captum calls it; it watches one layer run."""

    def __init__(self, layer: _Layer, targets: Any) -> None:
        self.layer, self.targets = layer, targets
        self.outputs: list[Tensor] = []
        self.samples = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.outputs, self.samples = [], len(inputs)
        handle = self.layer.module.register_forward_hook(self._watch)
        try:
            output = self.layer.model(inputs.clone())
        finally:
            handle.remove()
        if not self.outputs:
            raise ModelError(
                f"layer {self.layer.name!r} does not run in the forward pass, or not as a module: "
                "expected one run, which Captum's hooks see; leave this layer out"
            )
        return self.layer.objective(output, _repeated(self.targets, len(inputs)))

    def _watch(self, module: nn.Module, arguments: Any, output: Any) -> Tensor:
        if self.outputs:
            raise ModelError(
                f"layer {self.layer.name!r} runs more than once in a forward pass: expected one "
                "run, since Captum's hooks take the last for all; leave this layer out"
            )
        self.layer.check_output(output, self.samples)
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        self.outputs.append(output)
        return output.clone()  # Captum still needs what the model may overwrite in place

    def check(self, sample: Batch, method: CaptumMethod) -> None:
        """Run the layer on two copies of a sample, and refuse what Captum would fail on."""
        values = self(torch.cat([sample.inputs[0]] * 2).requires_grad_())
        if method.ablates:
            return
        if not values.requires_grad:
            raise ObjectiveError(
                "the objective does not depend on the layers: expected a value that autograd can "
                "follow; leave detach(), .item() and no_grad() out of model and objective"
            )
        if torch.autograd.grad(values.sum(), self.outputs, allow_unused=True)[0] is None:
            raise ModelError(
                f"the objective does not depend on the output of layer {self.layer.name!r}: "
                "expected one that autograd can follow to it; leave this layer out"
            )


def _attribution(
    attr: ModuleType,
    method: CaptumMethod,
    function: _ObjectiveOfInputs,
    sample: Batch,
    path: Mapping[str, Any],
) -> Tensor:
    inputs = sample.inputs[0].clone().requires_grad_()
    given = dict(path)
    if method.ablates:
        with torch.no_grad():
            function(inputs)
        given["layer_mask"] = function.layer.mask(function.outputs[0])
        given["perturbations_per_eval"] = _ABLATIONS_AT_ONCE
    of_layer = getattr(attr, method.layer_class)(function, function.layer.module)
    return of_layer.attribute(inputs, **{name: given[name] for name in method.arguments})


def _watched(
    model: nn.Module, layers: Iterable[str], objective: Objective
) -> tuple[list[_Layer], UnitIndex]:
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    if not names:
        raise UnitError("there is no layer: expected at least one name, such as 'conv1'")
    modules, places = dict(model.named_modules()), owners(model)
    for name in names:
        if not name or name not in modules:
            known = [n for n, m in modules.items() if n and isinstance(m, _KINDS)]
            raise UnitError(
                f"layer {name!r} is not one of the model's: expected names such as "
                f"{', '.join(map(repr, known[:3]))}; a module with two names goes by its first, "
                "and a model that is a single layer is put into a Sequential"
            )
        if not isinstance(modules[name], _KINDS):
            raise UnitError(
                f"layer {name!r} is a {type(modules[name]).__name__}: expected a convolution or a "
                "linear layer, whose output channels are units"
            )
        if len(places.get(f"{name}.weight", ())) != 1:
            raise UnitError(
                f"layer {name!r} has no weight of its own: expected a parameter "
                f"{f'{name}.weight'!r} that is not tied or computed from others; leave this layer "
                "out"
            )
    index = UnitIndex.of(model, only("output_channel", names))
    more = index.groups.keys() - {f"{name}.weight" for name in names}
    if more:
        raise UnitError(
            f"parameter {min(more)!r} has units beside its layer's weight: expected layers whose "
            "weight alone makes the output channels; leave this layer out"
        )
    watched = []
    for name in names:
        start, (channels,) = index.groups[f"{name}.weight"]
        watched.append(_Layer(model, objective, name, slice(start, start + channels)))
    return watched, index


def _with_baselines(batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
    """Give a batch's samples one by one, each beside where its path starts."""
    inputs, *more = batch.inputs
    baselines = more[0] if more else torch.zeros_like(inputs)
    if len(more) > 1 or inputs.shape != baselines.shape:
        raise DataError(
            f"the inputs have shapes {[tuple(one.shape) for one in batch.inputs]}: expected one "
            "input, or a pair of inputs and baselines of one shape; a model of several inputs is "
            "wrapped in a module of one"
        )
    for one in (inputs, baselines):
        if not one.is_floating_point():
            raise DataError(
                f"the inputs or baselines are {one.dtype}: expected floating-point numbers, which "
                "Captum differentiates by; give a model of their embeddings"
            )
    samples = Batch((inputs,), batch.targets, ()).chunks(1)
    yield from zip(samples, baselines.split(1), strict=True)


def cloned(batch: Batch) -> Batch:
    """Copy a batch's inputs, which the model may write into."""
    return replace(batch, inputs=tuple(one.clone() for one in batch.inputs))


def check_rule(name: str, n_steps: int) -> None:
    """Refuse a rule that Captum does not have, or that cannot take as many nodes."""
    if name not in _RULES:
        raise ParamattrError(f"rule {name!r} is not Captum's: expected one of {', '.join(_RULES)}")
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


def _repeated(tree: Any, times: int) -> Any:
    if isinstance(tree, Tensor):
        return torch.cat([tree] * times)
    if isinstance(tree, tuple | list):
        branches = [_repeated(branch, times) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    if isinstance(tree, dict):
        return {key: _repeated(branch, times) for key, branch in tree.items()}
    return tree

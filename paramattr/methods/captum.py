"""Captum's methods: samples, watched layers, scores of channels, and attributions of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paramattr.errors import DataError, ModelError, ObjectiveError, ParamattrError, UnitError, an
from paramattr.identity import likeness
from paramattr.integration.accumulation import Reduced
from paramattr.integration.batches import Batch, mapped
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.model import FunctionalModel
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import Baseline, align, named_parameters, owners
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.ranks import Distributed, Ranks, sketch
from paramattr.scoring.run import Options, stream
from paramattr.scoring.state import Sample
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import only
from paramattr.units.scores import Scores
from paramattr.wrappers import copied, unwrapped

Run = Callable[[Tensor], Any]
"""A function from inputs `(n, ...)` to the model's output."""


@dataclass(frozen=True)
class CaptumSample:
    """One sample.

    Attributes:
        batch: the model's arguments and the targets, for this sample alone.
        inputs: what Captum varies, `(1, ...)`, floating-point: the input, or the embeddings of its
            tokens.
        baselines: the start of Captum's path, of the same shape.
        run: the model as a function of `inputs`.
    """

    batch: Batch
    inputs: Tensor
    baselines: Tensor
    run: Run


def captum_samples(
    model: nn.Module, batch: Batch, embedding: str | None = None
) -> Iterator[CaptumSample]:
    """Yield a batch's samples one by one.

    Args:
        model: the model to run.
        batch: one floating-point input, a pair of an input and its baseline, or tokens.
        embedding: name of the module that embeds the tokens; by default the one that the model
            names, or its only one.

    Raises:
        DataError: if inputs and baselines do not match, or tokens have no known embedding.
        ModelError: if the embedding does not run exactly once.
    """
    if embedding is not None or batch.keywords or not batch.inputs[0].is_floating_point():
        kind = str(batch.inputs[0].dtype) if batch.inputs else "keywords"
        module = _embedding(model, embedding, kind)
        for sample in batch.chunks(1):
            embedded = _embedded(model, module, sample)
            run = _Embedded(model, module, sample)
            yield CaptumSample(sample, embedded, torch.zeros_like(embedded), run)
        return
    for sample, baselines in _with_baselines(batch):
        yield CaptumSample(sample, sample.inputs[0], baselines, model)


def cloned(batch: Batch) -> Batch:
    """Copy a batch's inputs, since the model may modify them."""
    return replace(batch, inputs=tuple(tensor.clone() for tensor in batch.inputs))


def repeated(tree: Any, times: int) -> Any:
    """Repeat the tensors of a tree along the batch."""
    if isinstance(tree, Tensor):
        return torch.cat([tree] * times)
    if isinstance(tree, tuple | list):
        branches = [repeated(branch, times) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    if isinstance(tree, dict):
        return {key: repeated(branch, times) for key, branch in tree.items()}
    return tree


class _Embedded:
    """A model of tokens as a function of their embeddings."""

    def __init__(self, model: nn.Module, embedding: nn.Module, sample: Batch) -> None:
        self.model, self.embedding, self.sample = model, embedding, sample

    def __call__(self, inputs: Tensor) -> Any:
        arguments = repeated(self.sample.arguments, len(inputs))
        keywords = repeated(self.sample.keywords, len(inputs))
        handle = self.embedding.register_forward_hook(lambda *_: inputs)
        try:
            return self.model(*arguments, **keywords)
        finally:
            handle.remove()


def _embedded(model: nn.Module, embedding: nn.Module, sample: Batch) -> Tensor:
    outputs: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad():
            model(*sample.arguments, **sample.keywords)
    finally:
        handle.remove()
    if len(outputs) != 1:
        raise ModelError(
            f"the embedding of the tokens runs {len(outputs)} times in a forward pass: expected "
            "one run, whose output Captum replaces; name another module (embedding=...)"
        )
    return outputs[0].detach()


def _embedding(model: nn.Module, name: str | None, kind: str) -> nn.Module:
    if name is not None:
        if name not in dict(model.named_modules()):
            raise ModelError(f"the embedding {name!r} is not one of the model's modules")
        return model.get_submodule(name)
    get_embedding: Callable[[], Any] | None = getattr(model, "get_input_embeddings", None)
    if get_embedding is not None and isinstance(get_embedding(), nn.Module):
        module: nn.Module = get_embedding()
        return module
    known = [n for n, module in model.named_modules() if isinstance(module, nn.Embedding)]
    if len(known) != 1:
        raise DataError(
            f"the inputs or baselines are {kind}: expected floating-point numbers, which Captum "
            "can differentiate, or the name of the module that embeds tokens; pass embedding=... "
            f"({', '.join(map(repr, known)) or 'none was found'})"
        )
    return model.get_submodule(known[0])


def _with_baselines(batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
    inputs, *rest = batch.inputs
    baselines = rest[0] if rest else torch.zeros_like(inputs)
    if len(rest) > 1 or inputs.shape != baselines.shape:
        raise DataError(
            f"the inputs have shapes {[tuple(tensor.shape) for tensor in batch.inputs]}: expected "
            "one input, or a pair of inputs and baselines of one shape; wrap a model with several "
            "inputs in a module with one"
        )
    for tensor in (inputs, baselines):
        if not tensor.is_floating_point():
            raise DataError(
                f"the inputs or baselines are {tensor.dtype}: expected floating-point numbers, "
                "which Captum can differentiate; pass a model of their embeddings"
            )
    samples = Batch((inputs,), batch.targets, ()).chunks(1)
    yield from zip(samples, baselines.split(1), strict=True)


class CaptumMethod(NamedTuple):
    """A class of `captum.attr`, and the arguments of its `attribute` besides the inputs."""

    layer_class: str
    arguments: tuple[str, ...] = ()

    @property
    def ablates(self) -> bool:
        """Return whether the method removes channels and needs no gradient."""
        return "layer_mask" in self.arguments


_KINDS = (nn.modules.conv._ConvNd, nn.Linear)
_ABLATIONS_AT_ONCE = 16


@dataclass(frozen=True)
class Layer:
    """A layer whose output channels are units."""

    model: nn.Module
    objective: Objective
    name: str
    units: slice

    @property
    def module(self) -> nn.Module:
        """The layer itself."""
        return self.model.get_submodule(self.name)

    @property
    def channel(self) -> int:
        """The output's channel dimension."""
        return 1 if isinstance(self.module, nn.modules.conv._ConvNd) else -1

    def check_output(self, output: Any, samples: int) -> None:
        """Reject an output without a dimension for samples or for channels."""
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        weight = self.module.get_parameter("weight")
        plain = isinstance(output, Tensor) and (self.channel < 0 or output.ndim == weight.ndim)
        if not plain or output.ndim < 2 or output.shape[0] != samples:
            raise ModelError(
                f"layer {self.name!r} gives {shape} for {samples} samples: expected a tensor with "
                "the batch first, by which Captum tells samples apart; leave this layer out"
            )
        units = self.units.stop - self.units.start
        if output.shape[self.channel] != units:
            raise UnitError(
                f"layer {self.name!r} gives {output.shape[self.channel]} channels, in the shape "
                f"{shape}, and its weight makes {units}: expected one channel per unit; leave "
                "this layer out"
            )

    def mask(self, output: Tensor) -> Tensor:
        """Number the output's channels, in a shape that broadcasts over it."""
        shape = [1] * output.ndim
        shape[self.channel] = output.shape[self.channel]
        return torch.arange(output.shape[self.channel], device=output.device).reshape(shape)

    def reduced(self, attribution: Tensor, method: CaptumMethod) -> Tensor:
        """Sum an attribution over all but the channels; for an ablation, take one per channel."""
        flat = attribution.detach().double().movedim(self.channel, 0).flatten(1).cpu()
        return flat[:, 0] if method.ablates else flat.sum(1)


class ObjectiveOfInputs:
    """The objective of one sample as a function of its inputs; it watches one layer."""

    def __init__(self, layer: Layer, sample: CaptumSample) -> None:
        self.layer, self.sample = layer, sample
        self.outputs: list[Tensor] = []
        self.samples = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        """Evaluate the objective on some inputs, and keep the layer's outputs."""
        self.outputs, self.samples = [], len(inputs)
        handle = self.layer.module.register_forward_hook(self._watch)
        try:
            output = self.sample.run(inputs.clone())
        finally:
            handle.remove()
        if not self.outputs:
            raise ModelError(
                f"layer {self.layer.name!r} does not run in the forward pass, or not as a module: "
                "expected one run, which Captum's hooks see; leave this layer out"
            )
        return self.layer.objective(output, repeated(self.sample.batch.targets, len(inputs)))

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
        return output.clone()  # the model may overwrite it in place, and Captum needs it later

    def check(self, method: CaptumMethod) -> None:
        """Run the layer on two copies of a sample, and reject what Captum cannot handle."""
        values = self(torch.cat([self.sample.inputs] * 2).requires_grad_())
        if method.ablates:
            return
        if not values.requires_grad:
            raise ObjectiveError(
                "the objective does not depend on the layers: expected a value that autograd can "
                "follow; remove detach(), .item() and no_grad() from model and objective"
            )
        if torch.autograd.grad(values.sum(), self.outputs, allow_unused=True)[0] is None:
            raise ModelError(
                f"the objective does not depend on the output of layer {self.layer.name!r}: "
                "expected one that autograd can follow to it; leave this layer out"
            )


def attribution(
    attr: ModuleType,
    method: CaptumMethod,
    function: ObjectiveOfInputs,
    path: Mapping[str, Any],
) -> Tensor:
    """Call one of Captum's methods on one sample and one layer.

    Args:
        attr: `captum.attr`.
        method: the class, and its arguments.
        function: the objective of the inputs, watching the layer.
        path: the options of methods along a path: `n_steps` and `method`.

    Returns:
        The attribution, in the shape of the layer's output.
    """
    inputs = function.sample.inputs.clone().requires_grad_()
    arguments = {"baselines": function.sample.baselines, **path}
    if method.ablates:
        with torch.no_grad():
            function(inputs)
        arguments["layer_mask"] = function.layer.mask(function.outputs[0])
        arguments["perturbations_per_eval"] = _ABLATIONS_AT_ONCE
    of_layer = getattr(attr, method.layer_class)(function, function.layer.module)
    return of_layer.attribute(inputs, **{name: arguments[name] for name in method.arguments})


def watched_layers(
    model: nn.Module, layers: Iterable[str], objective: Objective
) -> tuple[list[Layer], UnitIndex]:
    """Find the layers, and their output channels as units.

    Raises:
        UnitError: if a layer is unknown, of another kind, or has no weight of its own.
    """
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    if not names:
        raise UnitError("there is no layer: expected at least one name, such as 'conv1'")
    modules, places = dict(model.named_modules()), owners(model)
    for name in names:
        if not name or name not in modules:
            known = [n for n, m in modules.items() if n and _has_channels(m)]
            raise UnitError(
                f"layer {name!r} is not one of the model's: expected names such as "
                f"{', '.join(map(repr, known[:3]))}; a module with two names goes by its first; "
                "put a model that is a single layer into a Sequential"
            )
        if not _has_channels(modules[name]):
            raise UnitError(
                f"layer {name!r} is {an(type(modules[name]))}: expected a convolution or a "
                "linear layer, whose output channels are units"
            )
        if len(places.get(f"{name}.weight", ())) != 1:
            raise UnitError(
                f"layer {name!r} has no weight of its own: expected a parameter "
                f"{f'{name}.weight'!r} that is not tied or computed from others; leave this layer "
                "out"
            )
    index = UnitIndex.of(model, only("output_channel", names))
    others = index.groups.keys() - {f"{name}.weight" for name in names}
    if others:
        raise UnitError(
            f"parameter {min(others)!r} has units besides its layer's weight: expected layers "
            "whose weight alone makes the output channels; leave this layer out"
        )
    watched = []
    for name in names:
        start, (channels,) = index.groups[f"{name}.weight"]
        watched.append(Layer(model, objective, name, slice(start, start + channels)))
    return watched, index


def _has_channels(module: nn.Module) -> bool:
    # GPT-2's linear layers have their own class in transformers.
    is_linear = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return isinstance(module, _KINDS) or is_linear


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

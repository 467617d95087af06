"""Layers for Captum: each runs once per forward pass, and its output channels are units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramattr.attribution.captum_samples import CaptumSample, repeated
from paramattr.errors import ModelError, ObjectiveError, UnitError, an
from paramattr.objectives import Objective
from paramattr.parameters import owners
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import only


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

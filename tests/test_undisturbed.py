"""No call leaves a trace: not in the models, not in the random state, also not after an error."""

import copy
import gc
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from paramattr import (
    FAIG,
    UnitIndex,
    absolute_change,
    contrast,
    modulate,
    random_scores,
    retrain_only,
    squared_error,
    substitute,
)
from paramattr.paths import FittedPath
from tests.models import ZOO, other_weights
from tests.tiny import convnet, inputs_for, moved, seeded


class Counting(nn.Module):
    """Writes to a buffer at each use, in evaluation mode too, and to one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convnet()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        out = self.net(x)
        self.last[: len(out)] = out.detach()
        return out + 0 * self.steps


class TwoNames(nn.Module):
    """Holds one module under two names, and one buffer in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convnet()
        self.again = self.net
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean = self.net.norm.running_mean

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.again(2 * x)


class Drawing(nn.Module):
    """Draws noise in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convnet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.01 * torch.randn_like(x))


def frozen() -> nn.Module:
    """Freeze some parameters, and leave gradients on some."""
    model = convnet()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        if number % 3:
            parameter.grad = torch.full_like(parameter, number)
    return model


def partly_training() -> nn.Module:
    """Train where that changes nothing: the containers and the plain layers."""
    model = convnet().train()
    model.norm.eval()
    model.dropout.eval()
    model.fc.register_forward_hook(lambda module, inputs, output: None)
    return model


MODELS = {
    "batch norm and dropout": convnet,
    "buffer written in place": lambda: Counting().eval(),
    "frozen with gradients": frozen,
    "two names": lambda: TwoNames().eval(),
    "random forward": lambda: Drawing().eval(),
    "partly in training mode": partly_training,
}


class Stop(Exception):
    """What the tests raise half-way."""


class RaisesAt:
    """An objective that raises at its k-th call."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise Stop
        torch.rand(1)  # an objective may draw too
        return squared_error(output, targets)


def data() -> tuple[Tensor, Tensor]:
    x = inputs_for(convnet)
    return x, seeded(lambda: torch.randn(len(x), 2))


def one_batch():
    return [data()]


def drawing_loader():
    for _ in range(2):
        np.random.rand()  # noqa: NPY002
        random.random()
        torch.rand(1)
        yield data()


def raising_loader():
    yield from drawing_loader()
    raise Stop


def shuffled():
    return DataLoader(TensorDataset(*data()), batch_size=2, shuffle=True)


def faig(model, baseline, objective=squared_error) -> FAIG:
    return FAIG(model, baseline, objective=objective)


def delta(model, baseline):
    method = faig(model, baseline)
    attributions = method.attribute(*data(), n_steps=1)
    return method.compute_convergence_delta(attributions, *data())


def top(model, baseline):
    return absolute_change(model, baseline, reducer="kernel").top(count=3)


CALLS = {
    "constructor": faig,
    "attribute": lambda m, b: faig(m, b).attribute(*data(), n_steps=2),
    "attribute per sample": lambda m, b: faig(m, b).attribute(
        *data(), n_steps=1, per_sample=True, return_convergence_delta=True
    ),
    "attribute in chunks": lambda m, b: faig(m, b).attribute(
        *data(), n_steps=2, internal_batch_size=2, return_convergence_delta=True
    ),
    "attribute to a mapping": lambda m, b: faig(m, b.state_dict()).attribute(*data(), n_steps=1),
    "score": lambda m, b: faig(m, b).score(one_batch(), reducer="kernel", n_steps=1),
    "score with a drawing loader": lambda m, b: faig(m, b).score(
        drawing_loader(), reducer="scalar", n_steps=1
    ),
    "score with a shuffled loader": lambda m, b: faig(m, b).score(
        shuffled(), reducer="layer", n_steps=1
    ),
    "convergence delta": delta,
    "absolute change": absolute_change,
    "random scores": lambda m, b: random_scores(m, seed=3),
    "unit index": lambda m, b: UnitIndex.of(m, "output_channel"),
    "contrast and top": lambda m, b: contrast(absolute_change(m, b), random_scores(m)).top(
        fraction=0.5
    ),
    "substitute": lambda m, b: substitute(m, b, top(m, b)),
    "modulate": lambda m, b: modulate(m, b, top(m, b), 0.3),
    "retrain only": lambda m, b: retrain_only(m, top(m, b)),
}

BROKEN = {
    **{
        f"attribute, objective raises at call {call}": lambda m, b, call=call: faig(
            m, b, RaisesAt(call)
        ).attribute(*data(), n_steps=2, return_convergence_delta=True)
        for call in (1, 2, 4)
    },
    "score, objective raises": lambda m, b: faig(m, b, RaisesAt(3)).score(
        one_batch(), reducer="kernel", n_steps=1
    ),
    "score, loader raises": lambda m, b: faig(m, b).score(
        raising_loader(), reducer="kernel", n_steps=1
    ),
    "convergence delta, objective raises": lambda m, b: faig(
        m, b, RaisesAt(2)
    ).compute_convergence_delta({n: p.detach() for n, p in m.named_parameters()}, *data()),
    "unit index, reducer raises": lambda m, b: UnitIndex.of(m, raising_reducer),
}


def raising_reducer(name, parameter, module):
    raise Stop


def traces(model: nn.Module) -> dict[str, object]:
    """Everything of a model that a call could leave a trace in, by value and by identity."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {n: t.detach().clone() for n, t in tensors.items()},
        "identities": {n: (id(t), t.data_ptr(), t._version) for n, t in tensors.items()},
        "trainable": {n: t.requires_grad for n, t in tensors.items()},
        "gradients": {
            n: None if t.grad is None else (id(t.grad), t.grad.clone()) for n, t in tensors.items()
        },
        "modules": {
            n: (id(m), type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
            for n, m in model.named_modules()
        },
        "backward hooks": {n: len(t._backward_hooks or ()) for n, t in tensors.items()},
    }


def world() -> dict[str, object]:
    """Everything global that a call could leave a trace in."""
    return {
        "torch": torch.get_rng_state().clone(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def equal(a, b) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def all_calls():
    for call in CALLS:
        yield pytest.param(CALLS[call], False, id=call)
    for call in BROKEN:
        yield pytest.param(BROKEN[call], True, id=call)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("call", "raises"), list(all_calls()))
def test_no_call_leaves_a_trace(model, call, raises):
    target = MODELS[model]()
    baseline = moved(target)
    # Half of the calls are made where the caller has switched gradients off.
    context = torch.no_grad if hash_of(model, call) % 2 else nullcontext
    with context():
        before = [*map(traces, (target, baseline)), world()]
        with pytest.raises(Stop) if raises else nullcontext():
            call(target, baseline)
        after = [*map(traces, (target, baseline)), world()]
    for side, one, two in zip(("target", "baseline", "world"), before, after, strict=True):
        for what in one:
            assert equal(one[what], two[what]), f"{what} of the {side}"


def hash_of(model: str, call) -> int:
    return list(MODELS).index(model) + [p.values[0] for p in all_calls()].index(call)


def test_inference_mode_stays_on_and_is_no_hindrance():
    target = convnet()
    baseline = moved(target)
    expected = faig(target, baseline).attribute(*data(), n_steps=2)
    with torch.inference_mode():
        found = faig(target, baseline).attribute(*data(), n_steps=2)
        assert torch.is_inference_mode_enabled()
    assert equal(found, expected)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda m: m.head.weight.data.mul_(2),
        lambda m: m.norm.train(),
        lambda m: setattr(m.fc.bias, "grad", torch.zeros(2)),
        lambda m: m.head.bias.requires_grad_(False),
        lambda m: m.norm.running_mean.add_(1e-3),
        lambda m: m.fc.register_forward_hook(print),
        lambda m: setattr(m.fc, "weight", nn.Parameter(m.fc.weight.detach().clone())),
        lambda m: random.random(),
        lambda m: np.random.rand(),  # noqa: NPY002
        lambda m: torch.rand(1),
    ],
)
def test_the_comparison_sees_every_kind_of_trace(disturb):
    model = convnet()
    state = copy.deepcopy(random.getstate())
    try:
        with torch.random.fork_rng(devices=[]):
            before = [traces(model), world()]
            disturb(model)
            assert not all(map(equal, before, [traces(model), world()]))
    finally:
        random.setstate(state)


@pytest.mark.parametrize("options", [{}, {"partitions": 2}, {"method": "drawn"}])
def test_a_call_leaves_no_copy_of_the_models_to_the_garbage_collector(options):
    model, inputs, targets = ZOO["convolution"]()
    faig = FAIG(model, other_weights(model))
    gc.collect()
    gc.disable()
    try:
        faig.score([(inputs, targets)], reducer="layer", **options)
        assert not [held for held in gc.get_objects() if type(held) is FittedPath]
    finally:
        gc.enable()

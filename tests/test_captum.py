"""Captum's layer methods against loops over plain autograd, and Captum over the weights."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from paramattr import FAIG, UnitIndex, squared_error
from paramattr.errors import DataError, ModelError, ObjectiveError, ParamattrError, UnitError
from paramattr.methods import captum
from paramattr.methods.captum import CAPTUM_METHODS, captum_over_weights
from paramattr.quadrature import get_rule
from paramattr.units.reducers import only
from tests.tiny import moved, seeded

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = list(CAPTUM_METHODS)
every_method = pytest.mark.parametrize("method", METHODS)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class Net(nn.Module):
    """Convolutions of three kinds, one overwritten in place, a linear layer and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, 4, 3, padding=1)
        self.bend = nn.LeakyReLU(0.3, inplace=True)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 3, groups=2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        h = self.up(torch.tanh(self.grouped(self.bend(self.head(x)))))
        return self.fc(h.movedim(1, -1)).tanh() + x.movedim(1, -1) ** 2


LAYERS = ["head", "grouped", "up", "fc"]


def captum_scores(method, model, layers, loader, *, n_steps=2, **options):
    return captum.captum_scores(method, model, layers, loader, n_steps=n_steps, **options)


def net() -> nn.Module:
    return seeded(Net).double().eval()


def draw(*shape: int, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def batches(samples: int = 3):
    x, start, targets = (
        draw(samples, 2, 4, 4),
        draw(samples, 2, 4, 4, seed=6),
        draw(samples, 4, 4, 2),
    )
    return [((x[:2], start[:2]), targets[:2]), ((x[2:], start[2:]), targets[2:])]


# The slow references: one sample, one layer, hooks and autograd


def activation(model, layer, x) -> torch.Tensor:
    kept = []
    hook = layer.register_forward_hook(lambda module, args, out: kept.append(out.detach().clone()))
    with torch.no_grad():
        model(x)
    hook.remove()
    return kept[0]


def value(model, layer, x, target, instead) -> torch.Tensor:
    """Evaluate the objective where the layer's output is another one."""
    hook = layer.register_forward_hook(lambda module, args, out: instead.clone())
    try:
        return squared_error(model(x), target)[0]
    finally:
        hook.remove()


def gradient(model, layer, x, target, at) -> torch.Tensor:
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(value(model, layer, x, target, leaf), leaf)[0]


def nodes_and_weights(quadrature: str, n: int):
    rule = get_rule(quadrature, n)
    return rule.nodes, [float(np.float32(weight)) for weight in rule.weights]  # as Captum rounds


def conductance(model, layer, x, start, target, n, quadrature):
    points = [start + a * (x - start) for a in get_rule(quadrature, n + 1).nodes]
    acts = [activation(model, layer, point) for point in points]
    return sum(
        gradient(model, layer, points[k], target, acts[k]) * (acts[k + 1] - acts[k])
        for k in range(n)
    )


def internal_influence(model, layer, x, start, target, n, quadrature):
    total = 0
    for a, weight in zip(*nodes_and_weights(quadrature, n), strict=True):
        point = start + a * (x - start)
        at = activation(model, layer, point)
        total = total + weight * gradient(model, layer, point, target, at)
    return total


def layer_integrated_gradients(model, layer, x, start, target, n, quadrature):
    end, begin = activation(model, layer, x), activation(model, layer, start)
    return sum(
        weight * gradient(model, layer, x, target, begin + a * (end - begin)) * (end - begin)
        for a, weight in zip(*nodes_and_weights(quadrature, n), strict=True)
    )


def gradient_x_activation(model, layer, x, start, target, n, quadrature):
    at = activation(model, layer, x)
    return gradient(model, layer, x, target, at) * at


def ablation(model, layer, x, start, target, n, quadrature):
    """Give each channel's change at one position, and zero at the others."""
    at = activation(model, layer, x)
    whole = value(model, layer, x, target, at)
    channel = -1 if isinstance(layer, nn.Linear) else 1
    found = torch.zeros_like(at).movedim(channel, 0)
    for c in range(len(found)):
        without = at.clone()
        without.movedim(channel, 0)[c] = 0
        found[c].view(-1)[0] = whole - value(model, layer, x, target, without)
    return found.movedim(0, channel)


REFERENCES = {
    "layer-conductance": conductance,
    "internal-influence": internal_influence,
    "layer-integrated-gradients": layer_integrated_gradients,
    "layer-gradient-x-activation": gradient_x_activation,
    "layer-feature-ablation": ablation,
}


def expected(method, model, layers, loader, n=16, quadrature="gausslegendre"):
    """Give `{layer: (channels,)}`."""
    sums = {}
    for (inputs, starts), targets in loader:
        for triple in zip(inputs.split(1), starts.split(1), targets.split(1), strict=True):
            for name in layers:
                layer = model.get_submodule(name)
                found = REFERENCES[method](model, layer, *triple, n, quadrature).abs().detach()
                channel = found.ndim - 1 if isinstance(layer, nn.Linear) else 1
                each = found.sum([d for d in range(found.ndim) if d != channel])
                sums[name] = sums.get(name, 0) + each
    samples = sum(len(targets) for _, targets in loader)
    return {name: total / samples for name, total in sums.items()}


def by_layer(scores):
    """Give `{layer: (channels,)}`, read through the index alone."""
    found = {}
    for number, value in enumerate(scores.values):
        name, position = scores.index[number]
        assert position == (len(found.get(name, ())),)
        found.setdefault(name, []).append(value)
    return {name.removesuffix(".weight"): torch.stack(values) for name, values in found.items()}


def same(found, wanted, **tolerance):
    assert list(found) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **(tolerance or TIGHT))


# Captum's methods


@every_method
@pytest.mark.parametrize(
    ("n_steps", "quadrature"), [(3, "gausslegendre"), (4, "riemann_left"), (1, "gausslegendre")]
)
def test_equals_the_loop(method, n_steps, quadrature):
    model, loader = net(), batches()
    scores = captum_scores(method, model, LAYERS, loader, n_steps=n_steps, quadrature=quadrature)
    wanted = expected(method, model, LAYERS, loader, n_steps, quadrature)
    # Captum's Riemann nodes are in float32.
    same(by_layer(scores), wanted, **({"rtol": 1e-6, "atol": 1e-6} if "_" in quadrature else TIGHT))


def test_methods_differ():
    found = [captum_scores(method, net(), LAYERS, batches()).values for method in METHODS]
    for number, one in enumerate(found):
        for other in found[:number]:
            assert float((one - other).abs().max()) > 1e-3 * float(one.max())


@every_method
def test_order_of_layers_and_batches_does_not_matter(method):
    model, loader = net(), batches()
    scores = captum_scores(method, model, LAYERS, loader)
    again = captum_scores(method, model, [*reversed(LAYERS), "up"], reversed(loader))
    assert again.index == scores.index
    torch.testing.assert_close(again.values, scores.values, **TIGHT)


@every_method
@pytest.mark.parametrize("name", LAYERS)
def test_a_channel_is_the_unit_of_the_weights_that_make_it(method, name):
    model = net()
    layer = model.get_submodule(name)
    index = UnitIndex.of(model, only("output_channel", [name]))
    silent = 1
    chosen = torch.zeros(len(index), dtype=torch.bool)
    chosen[silent] = True
    with torch.no_grad():
        layer.weight[index.mask(f"{name}.weight", chosen)] = 0
        layer.bias[silent] = 0
    found = captum_scores(method, model, [name], batches()).values
    # The influence of a silent channel is a gradient alone: only the others multiply by it.
    assert (found.abs() > 1e-6).tolist() == [
        number != silent or method == "internal-influence" for number in range(len(index))
    ]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 4, 3, groups=2), (2, 2, 6)),
        (nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
        (nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False), (2, 4, 3)),
        (nn.Linear(3, 4), (2, 3)),
        (nn.Linear(3, 4), (2, 5, 3)),
    ],
)
@every_method
def test_other_kinds_of_layers(method, layer, shape):
    model = nn.Sequential(layer, nn.Tanh()).double().eval()
    x, start = draw(*shape), draw(*shape, seed=6)
    targets = draw(*model(x).shape, seed=7)
    loader = [((x, start), targets)]
    found = captum_scores(method, model, "0", loader, n_steps=2)
    same(by_layer(found), expected(method, model, ["0"], loader, 2))


@pytest.mark.parametrize("method", ["layer-conductance", "layer-integrated-gradients"])
def test_completeness_of_a_chain(method):
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    x = draw(2, 1, 4, 4).abs()

    def objective(output, targets):
        return output.square().flatten(1).sum(1)

    def gap(n: int) -> float:
        scores = captum_scores(
            method, model, ["0", "1"], [((x, x / 4), None)], objective=objective, n_steps=n
        )
        with torch.no_grad():  # all contributions are positive
            change = (objective(model(x), None) - objective(model(x / 4), None)).mean()
        return max(abs(total / float(change) - 1) for total in scores.by_layer().values())

    if method == "layer-conductance":
        assert gap(2) > 0.2
        assert gap(40) < 0.03
    else:
        assert gap(2) < 1e-6


@every_method
def test_baselines_are_zeros_where_none_are_given(method):
    model, x, targets = net(), draw(2, 2, 4, 4), draw(2, 4, 4, 2)
    wanted = captum_scores(method, model, LAYERS, [((x, torch.zeros_like(x)), targets)])
    for batch in ((x, targets), [x, targets], ((x,), targets), [[x, 0 * x], targets]):
        found = captum_scores(method, model, LAYERS, [batch])
        assert torch.equal(found.values, wanted.values)
    other = captum_scores(method, model, LAYERS, [((x, targets.movedim(-1, 1)), targets)])
    unmoved = method in ("layer-gradient-x-activation", "layer-feature-ablation")
    assert torch.equal(other.values, wanted.values) == unmoved


@every_method
def test_inputs_alone_and_targets_of_several_tensors(method):
    model, x, targets = net(), draw(3, 2, 4, 4), draw(3, 4, 4, 2)

    def to_both(output, both):
        return squared_error(output, both["one"][0]) + both["gain"]

    plain = captum_scores(method, model, LAYERS, [(x, targets)])
    nested = {"one": (targets,), "gain": torch.arange(3.0)}
    found = captum_scores(method, model, LAYERS, [(x, nested)], objective=to_both)
    torch.testing.assert_close(found.values, plain.values, **TIGHT)

    def energy(output, nothing):
        assert nothing is None
        return squared_error(output, torch.zeros_like(output))

    zeros = captum_scores(method, model, LAYERS, [(x, 0 * targets)])
    for batch in (x, (x,), ((x, 0 * x),), ((x, 0 * x), None)):
        found = captum_scores(method, model, LAYERS, [batch], objective=energy)
        torch.testing.assert_close(found.values, zeros.values, **TIGHT)


@every_method
def test_a_model_that_overwrites_its_input(method):
    x, targets = draw(2, 2, 4, 4), draw(2, 3, 4, 4)
    convolution = seeded(lambda: nn.Conv2d(2, 3, 1)).double()
    scores = [
        captum_scores(method, nn.Sequential(nn.LeakyReLU(0.3, p), convolution), "1", [(x, targets)])
        for p in (True, False)
    ]
    torch.testing.assert_close(scores[0].values, scores[1].values, **TIGHT)
    assert torch.equal(x, draw(2, 2, 4, 4))


@every_method
def test_compares_with_faig(method):
    model, x, targets = net(), draw(2, 2, 4, 4), draw(2, 4, 4, 2)
    reducer = only("output_channel", LAYERS[:3])
    faig = FAIG(model, moved(model)).score([(x, targets)], reducer=reducer)
    found = captum_scores(method, model, LAYERS[:3], [(x, targets)])
    assert found.index == faig.index
    torch.testing.assert_close((found - faig).values, found.values - faig.values)
    assert found.top(count=2).overlap(faig.top(count=14)) == 1


def test_float32_and_show_progress(capsys):
    x, targets = draw(2, 2, 4, 4), draw(2, 4, 4, 2)
    for method in METHODS:
        exact = captum_scores(method, net(), LAYERS, [(x, targets)]).values
        batch = x.float(), targets.float()
        found = captum_scores(method, net().float(), LAYERS, [batch], show_progress=True).values
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    assert "attributing" in capsys.readouterr().err


# No trace


def everything(model):
    """Give all that a call could change."""
    state = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    state += [(name, t.tolist()) for name, t in model.state_dict().items()]
    for parameter in model.parameters():
        grad = None if parameter.grad is None else parameter.grad.tolist()
        state.append((id(parameter), parameter.requires_grad, grad))
    for module in model.modules():
        hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
        state.append((module.training, *map(list, hooks)))
    return state


@every_method
@pytest.mark.parametrize(
    ("guard", "grad"),
    [(torch.no_grad, True), (torch.inference_mode, False), (torch.enable_grad, False)],
)
def test_model_is_undisturbed_and_may_be_frozen(method, guard, grad):
    wanted = captum_scores(method, net(), LAYERS, batches())
    model = net()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.bend.train()
    for parameter in model.parameters():
        parameter.requires_grad_(grad)
    model.up.register_forward_hook(lambda module, args, out: torch.rand(1) and None)
    before = everything(model)
    with guard():
        found = captum_scores(method, model, LAYERS, batches())
    assert everything(model) == before
    assert torch.equal(found.values, wanted.values)


@every_method
def test_model_is_undisturbed_after_an_error(method):
    model, calls = net(), []

    def failing(output, targets):
        calls.append(torch.rand(1))
        if len(calls) > 8:
            raise RuntimeError("on purpose")
        return squared_error(output, targets)

    before = everything(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        captum_scores(method, model, LAYERS, batches(), objective=failing)
    assert everything(model) == before


# What is refused


def raises(error, match, model=None, layers="head", loader=None, method=METHODS[0], **options):
    with pytest.raises(error, match=match):
        captum_scores(method, model or net(), layers, loader or batches(), **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "layer-lrp"}, "'layer-lrp' is not known.*layer-conductance"),
        ({"quadrature": "simpson"}, "'simpson' is not one of Captum's.*gausslegendre"),
        ({"n_steps": 0}, "n_steps is 0: .* at least 1"),
        ({"n_steps": 2.0}, "n_steps is 2.0"),
        ({"n_steps": True}, "n_steps is True"),
        ({"n_steps": 1, "quadrature": "riemann_left"}, "at least 2 for Captum's 'riemann_left'"),
    ],
)
def test_wrong_options(options, match):
    raises(ParamattrError, match, **options)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([], "there is no layer"),
        ("body.0", "layer 'body.0' is not one of the model's: .*'head', 'grouped', 'up'"),
        (["head", ""], "layer '' is not one of the model's"),
        (["head", "bend"], "layer 'bend' is a LeakyReLU: expected a convolution or a linear"),
    ],
)
@every_method
def test_wrong_layers(method, layers, match):
    raises(UnitError, match, layers=layers, method=method)


class Wrapped(nn.Module):
    """A layer beside a convolution, run in some way of its own."""

    def __init__(self, layer, how) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 1)
        self.layer, self.how = layer, how

    def forward(self, x):
        return self.how(self.layer, self.first(x))


class Shuffled(nn.Conv2d):
    def forward(self, x):
        return nn.functional.pixel_shuffle(super().forward(x), 2)


class Adapted(nn.Conv2d):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.adapter = nn.Parameter(torch.zeros(2, 2))


def refused(layer, how=lambda layer, x: layer(x)):
    return Wrapped(layer, how).double().eval()


SMALL = (2, 2, 1)


@pytest.mark.parametrize(
    ("layer", "how", "error", "match"),
    [
        (nn.Conv2d(*SMALL), lambda f, x: x + 1, ModelError, "does not run in the forward pass"),
        (nn.Conv2d(*SMALL), lambda f, x: f(f(x)), ModelError, "runs more than once"),
        (nn.Conv2d(*SMALL), lambda f, x: f(x.flatten(0, 1)[:, None].repeat(1, 2, 1, 1))[: len(x)],
         ModelError, r"gives \(4, 2, 4, 4\) for 2 samples: expected a tensor with the batch first"),
        (nn.Conv2d(*SMALL), lambda f, x: torch.stack([f(one) for one in x]), ModelError, "layer"),
        (Shuffled(2, 8, 1), lambda f, x: f(x), UnitError, "gives 2 channels, in the shape .* 8"),
        (Adapted(*SMALL), lambda f, x: f(x), UnitError, "'layer.adapter' has units beside"),
    ],
)  # fmt: skip
@every_method
def test_layers_that_do_not_fit(method, layer, how, error, match):
    loader = [(draw(1, 2, 4, 4), draw(1, 2, 4, 4))]

    def objective(output, targets):
        return output.flatten(1).square().sum(1)

    raises(error, match, refused(layer, how), "layer", loader, method, objective=objective)


def test_weights_that_are_tied_or_computed():
    tied = refused(nn.Conv2d(*SMALL))
    tied.layer.weight = tied.first.weight
    computed = refused(nn.utils.parametrizations.weight_norm(nn.Conv2d(*SMALL)))
    for model, layer in ((tied, "layer"), (tied, "first"), (computed, "layer")):
        raises(UnitError, f"layer '{layer}' has no weight of its own", model, layer)


def test_a_projection_that_attention_reads_is_no_module_run():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    loader = [(draw(2, 3, 4), draw(2, 3, 4))]
    model = Attention().double().eval()
    raises(ModelError, "does not run", model, "attention.out_proj", loader)


def test_objectives_that_gradients_cannot_follow():
    x, targets = draw(2, 2, 4, 4), draw(2, 2, 4, 4)

    def detached(output, targets):
        return squared_error(output.detach(), targets)

    aside = refused(nn.Conv2d(*SMALL), lambda layer, x: x + 0 * layer(x).detach())
    cut = refused(nn.Conv2d(*SMALL), lambda layer, x: layer(x.detach()))
    for method in METHODS:
        same_shape = {"loader": [(x, targets)], "method": method}
        if method == "layer-feature-ablation":  # needs no gradient
            found = captum_scores(method, aside, "layer", [(x, targets)])
            assert not found.values.any()
            found = captum_scores(method, cut, "layer", [(x, targets)], objective=detached)
            assert found.values.all()
        else:
            raises(
                ModelError, "depend on the output of layer 'layer'", aside, "layer", **same_shape
            )
            raises(ObjectiveError, "follow", cut, "layer", objective=detached, **same_shape)
            assert captum_scores(method, cut, "layer", [(x, targets)]).values.all()


@every_method
def test_wrong_objectives_models_and_data(method):
    def total(output, targets):
        return (output - targets).square().sum()

    raises(ObjectiveError, "scalar", objective=total, method=method)
    raises(ObjectiveError, "function of", objective="mse", method=method)
    noisy = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout(0.5))
    raises(ModelError, "training mode", noisy, "0", method=method)
    x, targets = draw(2, 2, 4, 4), draw(2, 4, 4, 2)
    for loader, match in (
        (iter([]), "gave no batch"),
        ([((x, x[:, :1]), targets)], "expected one input, or a pair"),
        ([((x, x, x), targets)], "wrap a model with several inputs"),
        ([((x, x[:1]), targets)], "2 samples"),
        ([(x.long(), targets)], "int64: expected floating-point"),
        ([((x, x.long()), targets)], "int64: expected floating-point"),
        ([(x, targets[:1])], "2 samples"),
    ):
        raises(DataError, match, loader=loader, method=method)


def test_without_captum(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    message = r"pip install 'paramattr\[captum\]'"
    raises(ParamattrError, message)
    model = net()
    with pytest.raises(ParamattrError, match=message):
        captum_over_weights(model, moved(model), draw(1, 2, 4, 4), draw(1, 4, 4, 2))


# Captum over the weights


@pytest.mark.parametrize("state", [True, False])
def test_over_weights_is_faig(state):
    model = net()
    model.bend = nn.Tanh()
    baseline = moved(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x, targets = draw(3, 2, 4, 4), draw(3, 4, 4, 2)
    before = everything(model)
    with torch.no_grad():
        found = captum_over_weights(
            model, baseline.state_dict() if state else baseline, x, targets, n_steps=3
        )
    assert everything(model) == before
    wanted = FAIG(model, baseline).attribute(x, targets, n_steps=3)
    same(found, wanted, rtol=1e-6, atol=1e-6)
    assert not any(value.requires_grad for value in found.values())
    with torch.no_grad():
        change = (squared_error(baseline(x), targets) - squared_error(model(x), targets)).sum()
    accurate = captum_over_weights(model, baseline, x, targets, n_steps=16)
    total = sum(value.sum() for value in accurate.values())
    torch.testing.assert_close(total, change, rtol=1e-3, atol=0)


def test_over_weights_of_a_model_that_overwrites_its_input():
    found, x = [], draw(2, 3)
    linear = seeded(lambda: nn.Linear(3, 2)).double()
    for in_place in (True, False):
        model = nn.Sequential(nn.LeakyReLU(0.3, in_place), linear)
        found.append(captum_over_weights(model, moved(model), x, draw(2, 2), n_steps=2))
    same(*found)
    assert torch.equal(x, draw(2, 3))


def test_over_weights_refuses():
    model, x, targets = net(), draw(2, 2, 4, 4), draw(2, 4, 4, 2)
    with pytest.raises(ParamattrError, match="'simpson' is not one of Captum's"):
        captum_over_weights(model, moved(model), x, targets, method="simpson")
    with pytest.raises(ModelError, match="missing"):
        captum_over_weights(model, nn.Linear(2, 2), x, targets)
    with pytest.raises(DataError, match="2 samples"):
        captum_over_weights(model, moved(model), x, targets[:1])
    with pytest.raises(ObjectiveError, match="scalar"):
        captum_over_weights(model, moved(model), x, targets, objective=lambda o, t: o.sum())


# The reducer


def test_only_keeps_the_units_of_the_layers():
    model = net()
    whole = UnitIndex.of(model, "output_channel")
    part = UnitIndex.of(model, only("output_channel", {"up", "head"}))
    assert list(part.groups) == ["head.weight", "up.weight"]
    assert len(part) == 8
    assert part.shapes == whole.shapes
    one = UnitIndex.of(model, only("scalar", "fc"))
    assert list(one.groups) == ["fc.weight", "fc.bias"]
    nested = only(only("kernel", ["head", "up"]), ["up", "fc"])
    assert list(UnitIndex.of(model, nested).groups) == ["up.weight"]
    everything = only(lambda *given: None, LAYERS)
    with pytest.raises(UnitError, match="leaves every parameter of Net out"):
        UnitIndex.of(model, everything)
    with pytest.raises(UnitError, match=r"only\(kernel, \['fc'\]\)"):
        UnitIndex.of(model, only("kernel", ["fc"]))
    with pytest.raises(UnitError, match="'kernels' is not known"):
        only("kernels", ["fc"])

"""Alignment gives the same function or says why not, whatever the model does with its channels."""

import copy
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from paramattr import align
from paramattr.errors import DataError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH = 5


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def pair(build, dtype=torch.float64):
    """Give two models with nothing in common."""
    models = []
    for seed in (0, 7):
        torch.manual_seed(seed)
        models.append(build().to(dtype).eval())
    return models


def check_same_or_refused(baseline, target, *inputs):
    """Hold the promise; give the aligned model, or None where it was refused."""
    before = state(baseline), state(target)
    with torch.no_grad():
        expected = baseline(*inputs)
    try:
        found = align(baseline, target)
    except ModelError:
        found = None
    for model, values in zip((baseline, target), before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in state(model).items())
    if found is not None:
        with torch.no_grad():
            torch.testing.assert_close(found(*inputs), expected, rtol=1e-7, atol=1e-9)
    return found


class Wired(nn.Module):
    """Two hidden layers and a head, and a function of all three."""

    def __init__(self, run, first=None):
        super().__init__()
        self.a, self.b = first or nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head, self.run = nn.Linear(WIDTH, 3), run

    def forward(self, x):
        return self.run(self, x)


def tied():
    model = Wired(lambda m, x: m.head(F.relu(m.c(F.relu(m.b(F.relu(m.a(x))))))))
    model.c = nn.Linear(WIDTH, WIDTH)
    model.c.weight = model.b.weight
    return model


def two_into_one():
    model = Wired(lambda m, x: m.head(F.relu(m.a(x))) + m.head(F.relu(m.c(x))))
    model.c = nn.Linear(4, WIDTH)
    return model


def along_the_length():
    layers = nn.Conv1d(4, WIDTH, 1), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
    return nn.Sequential(*layers, nn.Conv1d(WIDTH, 2, 1))


WIRINGS = {
    "a square": lambda: Wired(lambda m, x: m.head(F.relu(m.a(x)) * 1 * F.relu(m.a(x)))),
    "a product of a value and itself": lambda: Wired(lambda m, x: m.head(square(F.relu(m.a(x))))),
    "a product by a method": lambda: Wired(lambda m, x: m.head(by_method(F.relu(m.a(x))))),
    "a gate": lambda: Wired(lambda m, x: m.head(gated(m, F.relu(m.a(x))))),
    "one head reads two layers": two_into_one,
    "tied layers": tied,
    "a layer runs twice": lambda: Wired(
        lambda m, x: m.head(F.relu(m.b(F.relu(m.b(F.relu(m.a(x)))))))
    ),
    "a transposed weight": lambda: Wired(
        lambda m, x: m.head(F.relu(F.linear(F.relu(m.b(F.relu(m.a(x)))), m.b.weight.t())))
    ),
    "a pooling over features": lambda: nn.Sequential(
        nn.Linear(4, WIDTH), nn.ReLU(), nn.MaxPool1d(3, 1, 1), nn.Linear(WIDTH, 3)
    ),
    "features made larger": lambda: nn.Sequential(
        nn.Linear(4, WIDTH), nn.ReLU(), nn.Upsample(size=WIDTH), nn.Linear(WIDTH, 3)
    ),
    "along the length": along_the_length,
    "a size that a weight sets": lambda: Wired(
        lambda m, x: m.head(F.relu(m.a(x)) * m.a.weight.abs().sum())
    ),
}


def square(h):
    return h * h


def by_method(h):
    return h.mul(h)


def gated(model, h):
    return h * model.b(h)


@pytest.mark.parametrize("name", WIRINGS)
def test_what_is_more_than_channels_keeps_the_function(name):
    inputs = torch.randn(6, 4, WIDTH if name == "along the length" else 4).double()
    check_same_or_refused(*pair(WIRINGS[name]), inputs)


STEPS = (
    "linear", "again", "tied", "transposed", "relu", "leaky", "add", "product", "square", "pool",
    "norm", "half", "cat", "minus",
)  # fmt: skip


class Random(nn.Module):
    """Steps that each make a value of WIDTH features of those before."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleDict({"first": nn.Linear(4, WIDTH), "head": nn.Linear(WIDTH, 3)})
        linear = ["first"]
        for number, (kind, _) in enumerate(steps):
            if kind in ("linear", "tied", "cat"):
                layer = nn.Linear(2 * WIDTH if kind == "cat" else WIDTH, WIDTH)
                square = [n for n in linear if self.layers[n].weight.shape == (WIDTH, WIDTH)]
                if kind == "tied" and square:
                    layer.weight = self.layers[square[-1]].weight
                self.layers[str(number)] = layer
                linear.append(str(number))
            if kind == "norm":
                self.layers[str(number)] = norm = nn.BatchNorm1d(WIDTH)
                for tensor in (norm.running_mean, norm.running_var, norm.weight):
                    nn.init.uniform_(tensor, 0.5, 2)
        self.pool, self.linear = nn.MaxPool1d(3, 1, 1), linear

    def forward(self, x):
        values = [torch.relu(self.layers["first"](x))]
        for number, (kind, place) in enumerate(self.steps):
            values.append(self.made(kind, str(number), values[-1], values[place % len(values)]))
        return self.layers["head"](torch.relu(values[-1]))

    def made(self, kind, name, last, other):
        made = {
            "relu": lambda: torch.relu(last), "leaky": lambda: F.leaky_relu(last, 0.2),
            "add": lambda: last + other, "product": lambda: last * other,
            "minus": lambda: last - other, "square": lambda: last * last,
            "pool": lambda: self.pool(last), "half": lambda: 0.5 * last,
            "cat": lambda: self.layers[name](torch.cat([last, other], 1)),
        }  # fmt: skip
        if kind in made:
            return made[kind]()
        if kind in ("again", "transposed"):
            wide = self.layers[self.linear[-1]]
            if wide.in_features != WIDTH:
                return torch.relu(last)
            return wide(last) if kind == "again" else F.linear(last, wide.weight.t())
        return self.layers[name](last)


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=6), st.booleans())
def test_any_wiring_keeps_its_function_or_is_refused(steps, is_near):
    """Also near the target, where a wrong form would differ by little."""
    baseline, target = pair(lambda: Random(steps))
    if is_near:
        target = copy.deepcopy(baseline)
        with torch.no_grad():
            for parameter in target.parameters():
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    check_same_or_refused(baseline, target, torch.randn(6, 4).double())


class Residual(nn.Module):
    """Layers that read the stream and write to it."""

    def __init__(self, blocks=2, width=16):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x):
        h = torch.relu(self.first(x))
        for block in self.blocks:
            h = h + torch.relu(block(h))
        return self.last(h)


def apart(one, other):
    """Add up squared distances, each relative to the other's weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    ratios = ((a - b).square().sum() / b.square().sum().clamp(min=1e-12) for a, b in pairs)
    return float(sum(ratio.detach() for ratio in ratios))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("blocks", [1, 3])
def test_residual_networks_with_nothing_in_common_come_nearer(blocks, dtype):
    baseline, target = pair(lambda: Residual(blocks, 32), dtype)
    found = align(baseline, target)
    assert apart(found, target) < apart(baseline, target)
    assert max(float(p.detach().abs().max()) for p in found.parameters()) < 3
    inputs = torch.randn(9, 4, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(found(inputs), baseline(inputs), rtol=1e-4, atol=1e-5)


def test_a_residual_stream_is_brought_back():
    _, target = pair(Residual)
    other = copy.deepcopy(target)
    order, factors = torch.randperm(16), torch.randn(16).double().exp()
    with torch.no_grad():
        for layer in (other.first, *other.blocks):
            layer.weight.copy_(factors[:, None] * layer.weight[order])
            layer.bias.copy_(factors * layer.bias[order])
        for layer in (*other.blocks, other.last):
            layer.weight.copy_(layer.weight[:, order] / factors)
    assert apart(other, target) > 10
    assert apart(align(other, target), target) < 0.01


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_no_factor_leaves_its_bounds():
    baseline, target = pair(mlp)
    with torch.no_grad():
        baseline[0].weight.mul_(1e8), baseline[0].bias.mul_(1e8), baseline[2].weight.div_(1e8)
    found = align(baseline, target, permute=False)
    ratio = (found[0].bias / baseline[0].bias).detach()
    assert 0.9e-3 < float(ratio.min()) < 1.1e-3
    assert float(ratio.max()) < 1.1e3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    baseline, target = pair(mlp, dtype)
    found = align(baseline, target)
    inputs = torch.randn(9, 4).double()
    with torch.no_grad():
        one, other = (copy.deepcopy(model).double()(inputs) for model in (found, baseline))
    assert float((one - other).abs().max() / other.abs().max()) < 4 * torch.finfo(dtype).eps


def test_weights_that_rounding_destroys_are_refused():
    baseline, _ = pair(mlp, torch.float16)
    with torch.no_grad():
        baseline[0].weight.mul_(2e-4), baseline[0].bias.mul_(2e-4)
        target = copy.deepcopy(baseline)
        target[0].weight.mul_(1e-3), target[0].bias.mul_(1e-3), target[2].weight.mul_(1e3)
    with pytest.raises(ModelError, match=r"more than rounding explains.*higher precision"):
        align(baseline, target)


@pytest.mark.parametrize(
    ("norm", "way_out"),
    [
        (weight_norm, r"weight norm.*remove_weight_norm\(layer, 'weight'\)"),
        (spectral_norm, r"spectral norm.*remove_spectral_norm\(layer, 'weight'\)"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), r"prune.remove\(layer, 'wei"),
        (parametrizations.weight_norm, r"remove_parametrizations\(layer, 'weight'\)"),
        (parametrizations.spectral_norm, r"remove_parametrizations\(layer, 'weight'\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_computed_weights_are_refused_with_the_way_out(norm, way_out):
    def build():
        return nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))

    with pytest.raises(ModelError, match=rf"layer '0' of the baseline .*{way_out}"):
        align(*pair(build))
    with pytest.raises(ModelError, match=rf"layer '0' of the target .*{way_out}"):
        align(mlp().double(), build().double())


def test_a_parametrization_that_is_removed_can_be_aligned():
    baseline, target = pair(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), *mlp()[1:])
    )
    for model in (baseline, target):
        parametrize.remove_parametrizations(model[0], "weight")
    assert check_same_or_refused(baseline, target, torch.randn(6, 4).double()) is not None


@pytest.mark.parametrize("before", [False, True])
def test_a_hook_is_refused_by_name(before):
    baseline, target = pair(mlp)
    if before:
        baseline[1].register_forward_pre_hook(lambda module, given: (given[0] * torch.arange(8.0),))
    else:
        baseline[1].register_forward_hook(lambda module, given, made: made * torch.arange(8.0))
    with pytest.raises(ModelError, match=r"layer '1' has a forward hook.*handle.remove"):
        align(baseline, target)


def test_a_replaced_forward_is_refused_by_name():
    baseline, target = pair(mlp)
    baseline[1].forward = torch.sin
    with pytest.raises(ModelError, match=r"layer '1' has a forward of its own"):
        align(baseline, target)


def test_a_model_without_free_channels_is_refused():
    with pytest.raises(ModelError, match="no hidden channels"):
        align(*pair(lambda: nn.Sequential(nn.Linear(4, 3))))


class Hidden(nn.Module):
    """Its function depends on a weight in a way that no trace shows."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.head(F.relu(self.a(x)) * float(dict(self.a.named_parameters())["bias"].data[0]))


def test_what_no_trace_shows_is_found_by_the_outputs():
    baseline, _ = pair(Hidden)
    target = copy.deepcopy(baseline)  # alignment would change nothing
    with pytest.raises(ModelError, match=r"outputs change by .* made by 'a' and read by 'head'"):
        align(baseline, target)


class Named(nn.Module):
    """Takes what no one could guess."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, batch, *, scale):
        return self.body(batch["x"][1]) * scale["y"]


def test_inputs_that_cannot_be_made_are_asked_for():
    baseline, target = pair(Named)
    with pytest.raises(ModelError, match=r"no inputs could be made .*inputs=\.\.\."):
        align(baseline, target)
    inputs = {"batch": {"x": [None, torch.randn(6, 4)]}, "scale": {"y": 2.0}}
    found = align(baseline, target, inputs=inputs)
    assert not torch.equal(found.body[0].weight, baseline.body[0].weight)


@pytest.mark.parametrize(
    "inputs", [torch.randn(6, 4), (torch.randn(6, 4),), {"input": torch.randn(6, 4)}]
)
def test_inputs_are_a_tensor_arguments_or_keywords(inputs):
    baseline, target = pair(mlp)
    assert apart(align(baseline, target, inputs=inputs), target) < apart(baseline, target)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(6, 5), "the baseline .* fails on inputs"),
        (torch.full((6, 4), torch.inf), "not finite"),
        ("images", "inputs is a str"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(DataError, match=message):
        align(*pair(mlp), inputs=inputs)


class Tokens(nn.Module):
    """Reads words, and how strongly."""

    def __init__(self):
        super().__init__()
        self.words, self.body = nn.Embedding(11, 4), mlp()

    def forward(self, words, strength, mask=None):
        h = self.words(words) * strength
        return self.body(h)


def flattened():
    """Takes images of 28 x 28 alone."""
    layers = nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 5), nn.ReLU()
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3))


def normed():
    """Has as many features as a made sequence could have steps."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Single(nn.Module):
    """Fixes its precision."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        return self.body(x.float())


INPUTS = {
    "an image of one size": (flattened, torch.float64, lambda: (torch.randn(2, 1, 28, 28),)),
    "a volume": (
        lambda: nn.Sequential(nn.Conv3d(2, 5, 3), nn.ReLU(), nn.Conv3d(5, 2, 1)),
        torch.float64,
        lambda: (torch.randn(2, 2, 5, 5, 5),),
    ),
    "words and numbers": (
        Tokens,
        torch.float64,
        lambda: (torch.arange(6).view(2, 3), torch.ones(2, 1, 1)),
    ),
    "a norm of features": (normed, torch.float64, lambda: (torch.randn(5, 4),)),
    "one precision": (Single, torch.float32, lambda: (torch.randn(5, 4),)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_are_made_for(name):
    build, dtype, inputs = INPUTS[name]
    baseline, target = pair(build, dtype)
    given = [x.to(dtype) if x.is_floating_point() else x for x in inputs()]
    found = align(baseline, target)
    assert apart(found, target) < apart(baseline, target)
    with torch.no_grad():
        torch.testing.assert_close(found(*given), baseline(*given), rtol=1e-4, atol=1e-5)


def test_modes_and_chance_are_as_they_were():
    baseline, target = pair(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    )
    baseline[2].train()
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate()
    found = align(baseline, target)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert [module.training for module in found.modules()] == [False, False, False, True, False]
    assert [module.training for module in baseline.modules()] == [False, False, False, True, False]
    assert vars(found).keys() == vars(baseline).keys()  # the trace left nothing in it

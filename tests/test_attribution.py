"""`FAIG.attribute` against Eq. 6 as a loop, Captum over the weights, and its own promises."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import FAIG, PiecewiseLinear, absolute_error, cross_entropy, squared_error
from paramattr.errors import ModelError, ObjectiveError
from paramattr.methods.captum import captum_over_weights
from paramattr.quadrature import Rule, get_rule
from tests.models import ZOO, other_weights
from tests.reference import eq6
from tests.tiny import seeded

TIGHT = {"rtol": 1e-9, "atol": 1e-9}

pytestmark = pytest.mark.usefixtures("one_thread")
every_model = pytest.mark.parametrize("name", list(ZOO))


def assert_same(found, expected, *, rtol=1e-9, atol=1e-9):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=atol)


def total(attributions) -> torch.Tensor:
    """Sum of all attributions, per sample."""
    return sum(value.double().reshape(len(value), -1).sum(1) for value in attributions.values())


def change(model, baseline, inputs, targets, objective=squared_error) -> torch.Tensor:
    """The objective of the baseline minus that of the target, per sample."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        return (
            objective(baseline(*inputs), targets).double()
            - objective(model(*inputs), targets).double()
        )


@pytest.fixture
def small():
    """Give a model, a baseline, inputs and targets where any would do."""
    model, inputs, targets = ZOO["convolution"]()
    return model, other_weights(model, scale=0.1), inputs, targets


# The whole zoo


@every_model
@pytest.mark.parametrize(
    ("method", "n_steps"), [("gausslegendre", 3), ("riemann_left", 3), ("simpson", 4)]
)
def test_equals_the_loop_of_eq_6(name, method, n_steps):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    rule = get_rule(method, n_steps)
    expected = eq6.attributions(
        model, baseline, squared_error, inputs, targets, rule.nodes, rule.weights
    )
    found, delta = FAIG(model, baseline).attribute(
        inputs, targets, None, n_steps, method, None, True, per_sample=True
    )
    assert_same(found, expected)
    wanted = total(expected) - change(model, baseline, inputs, targets)
    torch.testing.assert_close(delta, wanted, **TIGHT)


@every_model
def test_equals_captum_over_the_weights(name):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    expected = captum_over_weights(model, baseline, inputs, targets, n_steps=3, per_sample=True)
    # Captum takes its weights to float32 before it sums, so it cannot be met to 1e-9 with ours
    # (only with weights such as 1/4, below). Ours are rounded likewise, as a rule of the user's.
    exact = get_rule("gausslegendre", 3)
    rounded = tuple(float(np.float32(weight)) for weight in exact.weights)
    rule = Rule("gausslegendre in float32", exact.nodes, rounded, degree=0)
    found = FAIG(model, baseline).attribute(inputs, targets, method=rule, per_sample=True)
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("method", "n_steps"),
    [("gausslegendre", 2), ("riemann_left", 4), ("riemann_right", 4), ("riemann_middle", 4)],
)
def test_equals_captum_by_name_where_its_weights_are_exact(small, method, n_steps):
    model, baseline, inputs, targets = small
    expected = captum_over_weights(
        model, baseline, inputs, targets, n_steps=n_steps, method=method, per_sample=True
    )
    found = FAIG(model, baseline).attribute(
        inputs, targets, n_steps=n_steps, method=method, per_sample=True
    )
    assert_same(found, expected)


@every_model
def test_batches_do_not_matter(name):
    model, inputs, targets = ZOO[name]()
    faig = FAIG(model, other_weights(model))
    apart = faig.attribute(inputs, targets, n_steps=2, per_sample=True)
    for sample in range(len(inputs)):
        part = slice(sample, sample + 1)
        alone = faig.attribute(inputs[part], targets[part], n_steps=2)
        assert_same({key: value[sample] for key, value in apart.items()}, alone)
    summed = {key: value.sum(0) for key, value in apart.items()}
    for size in (1, 2, None):
        found = faig.attribute(inputs, targets, n_steps=2, internal_batch_size=size)
        assert_same(found, summed)


# The delta


@every_model
def test_delta_vanishes_with_more_nodes(name):
    model, inputs, targets = ZOO[name]()
    faig = FAIG(model, other_weights(model, scale=0.1))

    def delta(n_steps: int, method: str) -> float:
        found = faig.attribute(inputs, targets, None, n_steps, method, None, True, per_sample=True)
        return float(found[1].abs().max())

    assert delta(1, "riemann_left") > 1e-3
    assert delta(12, "gausslegendre") < 1e-7


@pytest.mark.parametrize("per_sample", [True, False])
def test_delta_is_that_of_compute_convergence_delta(small, per_sample):
    model, baseline, inputs, targets = small
    faig = FAIG(model, baseline)
    assert faig.has_convergence_delta()
    found, delta = faig.attribute(
        inputs,
        targets,
        n_steps=1,
        method="riemann_left",
        return_convergence_delta=True,
        per_sample=per_sample,
    )
    assert delta.shape == ((len(inputs),) if per_sample else ())
    assert delta.dtype == torch.float64
    assert float(delta.abs().max()) > 0.1
    again = faig.compute_convergence_delta(found, inputs, targets)
    torch.testing.assert_close(again, delta, **TIGHT)


def test_delta_is_the_sum_of_the_samples_deltas(small):
    model, baseline, inputs, targets = small
    faig = FAIG(model, baseline)
    options = {"n_steps": 2, "return_convergence_delta": True}
    apart = faig.attribute(inputs, targets, **options, per_sample=True)[1]
    torch.testing.assert_close(faig.attribute(inputs, targets, **options)[1], apart.sum(), **TIGHT)
    assert float(apart.abs().min()) > 1e-6


# What is reported


@pytest.mark.parametrize(
    "parameters",
    [
        ["2.weight", "0.bias"],
        lambda name, value: name == "2.weight" or (name.startswith("0") and value.ndim == 1),
    ],
)
@pytest.mark.parametrize("per_sample", [True, False])
def test_partial_report_has_the_same_values_and_delta(small, parameters, per_sample):
    model, baseline, inputs, targets = small
    options = {"n_steps": 2, "return_convergence_delta": True, "per_sample": per_sample}
    whole, whole_delta = FAIG(model, baseline).attribute(inputs, targets, **options)
    picked = FAIG(model, baseline, parameters=parameters)
    part, delta = picked.attribute(inputs, targets, **options)
    assert list(part) == ["0.bias", "2.weight"]
    assert_same(part, {name: whole[name] for name in part})
    torch.testing.assert_close(delta, whole_delta, **TIGHT)
    assert_same(picked.attribute(inputs, targets, n_steps=2, per_sample=per_sample), part)
    with pytest.raises(ModelError, match=r"0\.weight"):
        picked.compute_convergence_delta(part, inputs, targets)


def test_a_single_name_is_a_name_not_letters(small):
    model, baseline, inputs, targets = small
    assert list(FAIG(model, baseline, parameters="0.bias").attribute(inputs, targets)) == ["0.bias"]


def test_only_what_moves_is_attributed(small):
    model, _, inputs, targets = small
    baseline = copy.deepcopy(model)
    with torch.no_grad():
        baseline[2].bias.add_(1.0)
    found, delta = FAIG(model, baseline).attribute(
        inputs, targets, n_steps=2, return_convergence_delta=True
    )
    assert [name for name, value in found.items() if value.any()] == ["2.bias"]
    assert abs(float(delta)) < 1e-9
    # The rest may be left out of what is given.
    alone = {"2.bias": found["2.bias"]}
    assert (
        abs(float(FAIG(model, baseline).compute_convergence_delta(alone, inputs, targets))) < 1e-9
    )


def test_report_of_a_parameter_that_forward_never_uses():
    model, inputs, targets = ZOO["with_unused"]()
    faig = FAIG(model, other_weights(model), parameters=["unused.weight"])
    found = faig.attribute(inputs, targets, n_steps=2)
    assert not found["unused.weight"].any()


def test_a_module_with_two_names_is_left_as_it_was():
    model, inputs, targets = ZOO["used_twice"]()
    before = {name: (id(value), value.clone()) for name, value in model.named_parameters()}
    FAIG(model, other_weights(model)).attribute(
        inputs, targets, n_steps=1, return_convergence_delta=True
    )
    for name, value in model.named_parameters():
        assert id(value) == before[name][0]
        assert torch.equal(value, before[name][1])


# Arguments


class TwoInputs(nn.Module):
    """Takes two inputs, a tensor for each sample and something that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, one, two, gain=None, mode=None):
        mixed = torch.tanh(self.linear(one)) * two
        mixed = mixed if gain is None else mixed * gain
        return mixed.square() if mode == "square" else mixed


@pytest.fixture
def two_inputs():
    draw = torch.Generator().manual_seed(3)
    numbers = [torch.randn(4, size, generator=draw, dtype=torch.float64) for size in (3, 2, 1, 2)]
    model = seeded(TwoInputs, 3).double().eval()
    one, two, gain, targets = numbers
    return model, other_weights(model), (one, two), gain, targets


@pytest.mark.parametrize("per_sample", [True, False])
def test_tuple_of_inputs_and_additional_arguments(two_inputs, per_sample):
    model, baseline, inputs, gain, targets = two_inputs
    rule = get_rule("gausslegendre", 3)
    expected = eq6.attributions(
        model,
        baseline,
        squared_error,
        inputs,
        targets,
        rule.nodes,
        rule.weights,
        extra=(gain, "square"),
    )
    if not per_sample:
        expected = {name: value.sum(0) for name, value in expected.items()}
    faig = FAIG(model, baseline)
    for size in (1, 3, None):
        found = faig.attribute(
            inputs, targets, (gain, "square"), 3, internal_batch_size=size, per_sample=per_sample
        )
        assert_same(found, expected)
    delta = faig.compute_convergence_delta(found, inputs, targets, (gain, "square"))
    with torch.no_grad():
        ends = [squared_error(each(*inputs, gain, "square"), targets) for each in (baseline, model)]
    wanted = sum(v.flatten(1).sum(1) if per_sample else v.sum() for v in expected.values())
    moved = ends[0] - ends[1]
    torch.testing.assert_close(delta, wanted - (moved if per_sample else moved.sum()), **TIGHT)


def test_additional_arguments_without_a_tuple(two_inputs):
    model, baseline, inputs, gain, targets = two_inputs
    faig = FAIG(model, baseline)
    alone = faig.attribute(inputs, targets, gain, 2)
    assert_same(alone, faig.attribute(inputs, targets, (gain,), 2))
    without = faig.attribute(inputs, targets, None, 2)
    assert not torch.allclose(without["linear.weight"], alone["linear.weight"])


def test_a_state_dict_serves_as_the_baseline(small):
    model, baseline, inputs, targets = small
    by_module = FAIG(model, baseline).attribute(inputs, targets, n_steps=2)
    by_state = FAIG(model, baseline.state_dict()).attribute(inputs, targets, n_steps=2)
    assert_same(by_state, by_module, rtol=0, atol=0)


@pytest.mark.parametrize("objective", [absolute_error, squared_error])
def test_other_objectives(small, objective):
    model, baseline, inputs, targets = small
    rule = get_rule("riemann_middle", 3)
    expected = eq6.attributions(
        model, baseline, objective, inputs, targets, rule.nodes, rule.weights
    )
    faig = FAIG(model, baseline, objective=objective)
    assert_same(faig.attribute(inputs, targets, n_steps=3, method=rule, per_sample=True), expected)


def test_cross_entropy_of_tied_words():
    model, words, _ = ZOO["tied"]()
    baseline = other_weights(model)

    def objective(output, targets):
        return cross_entropy(output.transpose(1, 2), targets)

    targets = words.flip(1)
    rule = get_rule("gausslegendre", 3)
    expected = eq6.attributions(
        model, baseline, objective, words, targets, rule.nodes, rule.weights
    )
    faig = FAIG(model, baseline, objective=objective)
    assert_same(faig.attribute(words, targets, n_steps=3, per_sample=True), expected)


def test_a_users_objective_that_needs_no_target(small):
    model, baseline, inputs, _ = small

    def brightness(output, targets):
        assert targets is None
        return output.flatten(1).mean(1)

    rule = get_rule("gausslegendre", 4)
    expected = eq6.attributions(model, baseline, brightness, inputs, None, rule.nodes, rule.weights)
    found, delta = FAIG(model, baseline, objective=brightness).attribute(
        inputs, n_steps=4, return_convergence_delta=True, per_sample=True
    )
    assert_same(found, expected)
    assert float(delta.abs().max()) < 1e-4


# Precision


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)]
)
def test_at_least_float32_comes_out(small, dtype, tolerance):
    model, baseline, inputs, targets = small
    exact = FAIG(model, baseline).attribute(inputs, targets, n_steps=3)
    model, baseline = copy.deepcopy(model).to(dtype), copy.deepcopy(baseline).to(dtype)
    for per_sample in (True, False):
        found, delta = FAIG(model, baseline).attribute(
            inputs.to(dtype),
            targets.to(dtype),
            n_steps=3,
            return_convergence_delta=True,
            per_sample=per_sample,
        )
        assert delta.dtype == torch.float64
        for name, value in found.items():
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            value = value.sum(0) if per_sample else value
            far = (value.double() - exact[name]).abs().max() / exact[name].abs().max()
            assert float(far) < tolerance


# Paths


def test_piecewise_path_with_kinks_is_complete(small):
    model, baseline, inputs, targets = small
    first, second = (other_weights(model, scale=0.1, seed=seed) for seed in (5, 6))
    faig = FAIG(model, baseline, path=PiecewiseLinear([model, first, second, baseline]))
    found, delta = faig.attribute(
        inputs, targets, n_steps=8, return_convergence_delta=True, per_sample=True
    )
    assert float(delta.abs().max()) < 1e-6
    # Eq. 6 holds on each piece: the sum of three straight lines.
    rule = get_rule("gausslegendre", 8)
    pieces = [
        eq6.attributions(start, end, squared_error, inputs, targets, rule.nodes, rule.weights)
        for start, end in ((model, first), (first, second), (second, baseline))
    ]
    assert_same(found, {name: sum(piece[name] for piece in pieces) for name in found})
    straight = FAIG(model, baseline).attribute(inputs, targets, n_steps=8, per_sample=True)
    assert not torch.allclose(straight["0.weight"], found["0.weight"])


@pytest.mark.parametrize("method", ["riemann_left", "riemann_right", "riemann_trapezoid"])
def test_nodes_at_a_kink_belong_to_their_own_piece(small, method):
    model, baseline, inputs, targets = small
    middle = other_weights(model, scale=0.1, seed=5)
    rule = get_rule(method, 3)
    found = FAIG(model, baseline, path=PiecewiseLinear([model, middle, baseline])).attribute(
        inputs, targets, method=rule, per_sample=True
    )
    pieces = [
        eq6.attributions(start, end, squared_error, inputs, targets, rule.nodes, rule.weights)
        for start, end in ((model, middle), (middle, baseline))
    ]
    assert_same(found, {name: pieces[0][name] + pieces[1][name] for name in found})


class EndsItsPieces(PiecewiseLinear):
    """A user's kinked path whose derivative at a kink is that of the piece that ends there."""

    def derivative(self, alpha):
        return super().derivative(math.nextafter(alpha, 0))


@pytest.mark.parametrize("method", ["riemann_left", "riemann_right"])
def test_either_derivative_will_do_at_a_kink(small, method):
    model, baseline, inputs, targets = small
    points = [model, other_weights(model, scale=0.1, seed=5), baseline]
    found = [
        FAIG(model, baseline, path=kind(points)).attribute(
            inputs, targets, n_steps=3, method=method, per_sample=True
        )
        for kind in (PiecewiseLinear, EndsItsPieces)
    ]
    assert_same(*found)


class Detour:
    """A user's own path, curved: the straight line and a bow to the side."""

    def __init__(self, target, baseline) -> None:
        self.start = {n: p.detach() for n, p in target.named_parameters()}
        self.end = {n: p.detach() for n, p in baseline.named_parameters()}

    def evaluate(self, alpha):
        bow = math.sin(math.pi * alpha)
        return {
            name: start + alpha**2 * (self.end[name] - start) + 0.1 * bow
            for name, start in self.start.items()
        }

    def derivative(self, alpha):
        bow = math.pi * math.cos(math.pi * alpha)
        return {
            name: 2 * alpha * (self.end[name] - start) + 0.1 * bow
            for name, start in self.start.items()
        }


def test_a_users_curved_path_is_complete(small):
    model, baseline, inputs, targets = small
    path = Detour(model, baseline)
    found, delta = FAIG(model, baseline, path=path).attribute(
        inputs, targets, n_steps=16, return_convergence_delta=True, per_sample=True
    )
    assert float(delta.abs().max()) < 1e-6
    torch.testing.assert_close(
        total(found), change(model, baseline, inputs, targets), rtol=1e-6, atol=1e-6
    )
    straight = FAIG(model, baseline).attribute(inputs, targets, per_sample=True)
    assert not torch.allclose(straight["0.weight"], found["0.weight"], rtol=0.1)


def test_a_reversed_path_is_refused(small):
    model, baseline, _, _ = small
    with pytest.raises(ModelError, match="reverse a list"):
        FAIG(model, baseline, path=PiecewiseLinear([baseline, model]))
    with pytest.raises(ModelError, match="reverse a list"):
        FAIG(model, baseline, path=Detour(baseline, model))


# The caller's state, and the sign


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("per_sample", [True, False])
def test_runs_where_the_caller_has_switched_autograd_off(small, context, per_sample):
    model, baseline, inputs, targets = small
    expected = FAIG(model, baseline).attribute(inputs, targets, n_steps=2, per_sample=per_sample)
    with context():
        ours, theirs = inputs * 1, targets * 1  # under inference_mode, inference tensors
        faig = FAIG(model, baseline)
        found, delta = faig.attribute(
            ours, theirs, n_steps=2, return_convergence_delta=True, per_sample=per_sample
        )
        again = faig.compute_convergence_delta(found, ours, theirs)
    assert_same(found, expected)
    torch.testing.assert_close(again, delta, **TIGHT)


def test_frozen_parameters_have_attributions(small):
    model, baseline, inputs, targets = small
    expected = FAIG(model, baseline).attribute(inputs, targets, n_steps=2)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert_same(FAIG(model, baseline).attribute(inputs, targets, n_steps=2), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_sign_says_that_the_change_lowered_the_objective():
    target, baseline = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        target.weight.copy_(torch.tensor([[0.0, 2.0]]))  # the first weight moved from 1 to 0,
        baseline.weight.copy_(torch.tensor([[1.0, 1.0]]))  # the second from 1 to 2
    inputs = torch.eye(2)  # the first sample sees the first weight alone
    found = FAIG(target, baseline).attribute(inputs, torch.zeros(2, 1), per_sample=True)
    expected = torch.tensor([[[1.0, 0.0]], [[0.0, -3.0]]])  # 1 - 0 and 1 - 4
    torch.testing.assert_close(found["weight"], expected)


# Random networks


@settings(max_examples=20)
@given(data=st.data())
def test_random_convolutions_equal_the_loop_of_eq_6(data):
    groups = data.draw(st.integers(1, 2), "groups")
    ins = groups * data.draw(st.integers(1, 2), "in per group")
    outs = groups * data.draw(st.integers(1, 2), "out per group")
    size = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), "kernel")
    transposed = data.draw(st.booleans(), "transposed")
    stride = data.draw(st.integers(1, 2), "stride")
    bias = data.draw(st.booleans(), "bias")
    samples = data.draw(st.integers(1, 3), "samples")
    area = data.draw(st.tuples(st.integers(3, 5), st.integers(3, 5)), "area")
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]), "dtype")
    method = data.draw(st.sampled_from(["gausslegendre", "riemann_left", "simpson"]), "method")
    chunk = data.draw(st.sampled_from([None, 1, 2]), "internal_batch_size")
    seed = data.draw(st.integers(0, 1000), "seed")

    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = kind(ins, outs, size, stride=stride, groups=groups, bias=bias)
        model = nn.Sequential(first, nn.Tanh(), nn.Conv2d(outs, 1, 1)).to(dtype).eval()
        inputs = torch.randn(samples, ins, *area, dtype=dtype)
        with torch.no_grad():
            targets = torch.randn_like(model(inputs))
    baseline = other_weights(model, seed=seed)
    rule = get_rule(method, 3)
    expected = eq6.attributions(
        copy.deepcopy(model).double(),
        copy.deepcopy(baseline).double(),
        squared_error,
        inputs.double(),
        targets.double(),
        rule.nodes,
        rule.weights,
    )
    faig = FAIG(model, baseline)
    near = 1e-9 if dtype == torch.float64 else 1e-3
    apart = faig.attribute(
        inputs, targets, n_steps=3, method=method, internal_batch_size=chunk, per_sample=True
    )
    assert {value.dtype for value in apart.values()} == {dtype}
    assert_same({n: v.double() for n, v in apart.items()}, expected, rtol=near, atol=near)
    summed = faig.attribute(inputs, targets, n_steps=3, method=method, internal_batch_size=chunk)
    expected = {name: value.sum(0) for name, value in expected.items()}
    assert_same({n: v.double() for n, v in summed.items()}, expected, rtol=near, atol=near)


@every_model
def test_delta_of_attributions_that_are_given(name):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    faig = FAIG(model, baseline)
    found = faig.attribute(inputs, targets, n_steps=1, per_sample=True)
    expected = total(found) - change(model, baseline, inputs, targets)
    delta = faig.compute_convergence_delta(found, inputs, targets)
    torch.testing.assert_close(delta, expected, **TIGHT)
    summed = {key: value.sum(0) for key, value in found.items()}
    delta = faig.compute_convergence_delta(summed, inputs, targets)
    torch.testing.assert_close(delta, expected.sum(), **TIGHT)


# Models and paths that ask for care


def test_state_dicts_with_buffers_and_tied_names_make_a_path():
    model, inputs, targets = ZOO["batch_norm"]()
    points = [model, other_weights(model), other_weights(other_weights(model))]
    path = PiecewiseLinear([point.state_dict() for point in points])
    faig = FAIG(model, points[-1].state_dict(), path=path)
    found = faig.attribute(inputs, targets, n_steps=2)
    expected = FAIG(model, points[-1], path=PiecewiseLinear(points)).attribute(
        inputs, targets, n_steps=2
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)


class Written:
    """The straight line as a user writes it, which misses its end by rounding."""

    def __init__(self, target, baseline):
        self.target = {n: p.detach() for n, p in target.named_parameters()}
        self.change = {n: p.detach() - self.target[n] for n, p in baseline.named_parameters()}

    def evaluate(self, alpha):
        return {n: t + alpha * self.change[n] for n, t in self.target.items()}

    def derivative(self, alpha):
        return self.change


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_users_path_may_miss_its_ends_by_rounding(dtype):
    torch.manual_seed(0)
    target, baseline = (nn.Linear(50, 50).to(dtype) for _ in range(2))
    with torch.no_grad():
        target.weight.normal_()
        baseline.weight.normal_()
    path = Written(target, baseline)
    assert not torch.equal(path.evaluate(1.0)["weight"], baseline.weight)
    FAIG(target, baseline, path=path)


def test_a_path_is_brought_to_the_models_precision():
    torch.manual_seed(0)
    target, baseline = (nn.Linear(3, 2).double() for _ in range(2))
    single = PiecewiseLinear(
        [{n: p.float() for n, p in m.named_parameters()} for m in (target, baseline)]
    )
    for model in (target, baseline):
        model.load_state_dict({n: p.float().double() for n, p in model.state_dict().items()})
    x, y = torch.randn(2, 3).double(), torch.randn(2, 2).double()
    found = FAIG(target, baseline, path=single).attribute(x, y)
    assert found["weight"].dtype == torch.float64


def test_padded_attention_is_complete():
    """Attention's fast path for inference treats padding otherwise than the one gradients take."""
    torch.manual_seed(0)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(
                4, 2, 8, dropout=0.0, activation="gelu", batch_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x, padding):
            return self.encoder(x, src_key_padding_mask=padding)

    target, baseline = (Padded().double().eval() for _ in range(2))
    x, y = torch.randn(2, 5, 4).double(), torch.randn(2, 5, 4).double()
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    enabled = torch.backends.mha.get_fastpath_enabled()
    attributions, delta = FAIG(target, baseline).attribute(
        x, y, padding, n_steps=24, return_convergence_delta=True
    )
    assert torch.backends.mha.get_fastpath_enabled() == enabled
    total = sum(value.sum() for value in attributions.values())
    assert abs(delta) < 1e-3 * abs(total)


def test_a_gradient_that_is_not_finite_is_named():
    torch.manual_seed(0)
    target, baseline = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)

    def root(output, targets):
        return (output - targets).square().flatten(1).sum(1).mul(0).sqrt()

    x = torch.randn(3, 2)
    with pytest.raises(ObjectiveError, match=r"'weight' is not finite for sample 0.*square root"):
        FAIG(target, baseline, objective=root).attribute(x, torch.zeros(3, 1), per_sample=True)


def test_a_predicate_sees_the_parameter_itself():
    target, baseline = nn.Linear(2, 2), nn.Linear(2, 2)
    target.bias.requires_grad_(False)
    faig = FAIG(target, baseline, parameters=lambda name, p: p.requires_grad)
    assert list(faig.attribute(torch.randn(1, 2), torch.randn(1, 2))) == ["weight"]


def test_a_model_that_writes_into_its_input_spoils_neither_the_data_nor_the_next_node():
    torch.manual_seed(0)
    target, baseline = (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)) for _ in range(2))
    inputs, targets = torch.randn(4, 3), torch.randn(4, 2)
    kept = inputs.clone()
    found = FAIG(target, baseline).attribute(inputs, targets, n_steps=3)
    assert torch.equal(inputs, kept)
    expected = FAIG(target[1], baseline[1]).attribute(kept.relu(), targets, n_steps=3)
    for name, value in expected.items():
        assert torch.equal(found[f"1.{name}"], value)

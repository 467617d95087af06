"""The methods beside FAIG: each against its equation as a loop, and the promises they share."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    Scores,
    Selection,
    UnitIndex,
    Units,
    absolute_change,
    absolute_error,
    fisher_times_change,
    gradient_times_change,
    random_scores,
    random_within_layers,
    summed_output,
    weight_magnitude,
)
from paramattr.errors import (
    CheckpointError,
    DataError,
    ModelError,
    ObjectiveError,
    ParamattrError,
    UnitError,
)
from paramattr.methods.gradient_times_change import single_node
from paramattr.quadrature import Rule, get_rule, riemann_left
from paramattr.units.reducers import layer_of
from tests.kills import cut
from tests.models import ZOO, other_weights, random_batches
from tests.reference import eq6, input_path
from tests.test_undisturbed import MODELS as DISTURBED
from tests.test_undisturbed import RaisesAt, Stop, data, drawing_loader, equal, traces, world
from tests.tiny import (
    REDUCER_NAMES,
    convnet,
    indexes,
    inputs_for,
    moved,
    scores_of,
    seeded,
    selections_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class TwoInputs(nn.Module):
    """Takes two inputs, of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, one, two):
        return torch.tanh(self.linear(one)) * two


def two_inputs():
    draw = torch.Generator().manual_seed(3)
    model = seeded(TwoInputs).double().eval()
    return model, tuple(torch.randn(3, n, generator=draw, dtype=torch.float64) for n in (3, 2))


def case(name):
    """Give a model, degraded inputs and clean ones."""
    model, inputs = two_inputs() if name == "two inputs" else ZOO[name]()[:2]
    draw = torch.Generator().manual_seed(11)
    clean = tuple(
        one + torch.randn(one.shape, generator=draw, dtype=torch.float64)
        for one in input_path.several(inputs)
    )
    return model, inputs, clean if isinstance(inputs, tuple) else clean[0]


INPUT_PATH_CASES = [
    *(name for name, build in ZOO.items() if name not in ("embedding", "tied")),
    "two inputs",
]


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **TIGHT)


def assert_close(found, expected):
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, **TIGHT)


def unit_sums(index, attributions):
    """Mean over samples of the sum over each unit's entries of absolute values, entry by entry."""
    sums = [0.0] * len(index)
    for name, labels in index.labels.items():
        value = attributions[name]
        of_entry = labels.expand(value.shape[1:]).flatten().tolist()
        for sample in value:
            for unit, entry in zip(of_entry, sample.flatten().tolist(), strict=True):
                if unit >= 0:
                    sums[unit] += abs(entry) / len(value)
    return sums


@pytest.fixture
def small():
    """Give a model, a baseline model, degraded inputs, clean inputs and targets."""
    model, inputs, targets = ZOO["convolution"]()
    draw = torch.Generator().manual_seed(0)
    inputs, clean = (
        torch.randn(3, *inputs.shape[1:], generator=draw, dtype=torch.float64) for _ in range(2)
    )
    targets = torch.randn(3, *targets.shape[1:], generator=draw, dtype=torch.float64)
    return model, other_weights(model), inputs, clean, targets


# The modified IG against the loop


@pytest.mark.parametrize("name", INPUT_PATH_CASES)
@pytest.mark.parametrize(("method", "n_steps"), [("gausslegendre", 3), ("riemann_left", 4)])
def test_input_path_equals_the_loop(name, method, n_steps):
    model, inputs, clean = case(name)
    rule = get_rule(method, n_steps)
    expected = input_path.attributions(model, inputs, clean, rule.nodes, rule.weights)
    ig = InputPathIntegratedGradients(model)
    found = ig.attribute(inputs, clean, n_steps, method, per_sample=True)
    assert_same(found, expected)
    summed = ig.attribute(inputs, clean, n_steps=n_steps, method=method)
    assert_same(summed, {key: value.sum(0) for key, value in expected.items()})


@pytest.mark.parametrize("name", ["grouped_transposed", "used_twice", "two inputs"])
def test_input_path_of_100_left_nodes_is_the_authors_formula(name):
    model, inputs, clean = case(name)
    nodes = [k / 100 for k in range(100)]  # from the clean image on, the degraded one left out
    expected = input_path.attributions(model, inputs, clean, nodes, [0.01] * 100)
    ig = InputPathIntegratedGradients(model)
    options = {"n_steps": 100, "method": "riemann_left"}
    assert_same(ig.attribute(inputs, clean, **options, per_sample=True), expected)
    reducer = "output_channel" if name in ("linear", "two inputs") else "kernel"
    scores = ig.score([(inputs, clean)], reducer=reducer, **options)
    assert_close(scores.values, unit_sums(scores.index, expected))


def test_input_path_scores_of_kernels_take_the_magnitude_of_each_entry_of_each_sample(small):
    model, _, inputs, clean, _ = small
    rule = riemann_left(5)
    exact = input_path.attributions(model, inputs, clean, rule.nodes, rule.weights)
    scores = InputPathIntegratedGradients(model).score(
        [(inputs, clean)], reducer="kernel", n_steps=5, method="riemann_left"
    )
    expected = [
        score
        for value in exact.values()
        if value.ndim > 3
        for row in eq6.kernel_scores(value)
        for score in row
    ]
    assert_close(scores.values, expected)
    # The two other orders are other numbers.
    first = exact["0.weight"]
    own = scores.values[: first[0, :, :, 0, 0].numel()]
    assert not torch.allclose(own, first.mean(0).abs().sum((2, 3)).flatten(), rtol=1e-3)
    assert not torch.allclose(own, first.sum((3, 4)).abs().mean(0).flatten(), rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "n_steps"), [("gausslegendre", 3), ("riemann_left", 100), ("riemann_right", 4)]
)
@pytest.mark.parametrize("name", ["convolution", "grouped", "transposed", "linear", "two inputs"])
def test_input_path_equals_captum_over_inputs_and_weights(name, method, n_steps):
    model, inputs, clean = case(name)
    expected = input_path.by_captum(model, inputs, clean, n_steps=n_steps, method=method)
    # Captum takes its weights, and the nodes of its Riemann rules, to float32: ours likewise.
    exact = get_rule(method, n_steps)
    nodes = exact.nodes
    if method != "gausslegendre":
        nodes = tuple(torch.linspace(nodes[0], nodes[-1], n_steps).tolist())
        assert nodes == pytest.approx(exact.nodes, abs=1e-7)
    weights = tuple(float(np.float32(weight)) for weight in exact.weights)
    rule = Rule("in float32", nodes, weights, degree=0)
    ig = InputPathIntegratedGradients(model)
    assert_same(ig.attribute(inputs, clean, method=rule, per_sample=True), expected)


def test_input_path_ends_at_the_two_inputs_in_order(small):
    model, _, inputs, clean, _ = small
    ig = InputPathIntegratedGradients(model)
    for method, end in (("riemann_left", clean), ("riemann_right", inputs)):
        model.zero_grad()
        model(end).sum().backward()
        expected = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert_same(ig.attribute(inputs, clean, 1, method), expected)


def test_input_path_takes_another_objective_and_a_part_of_the_parameters(small):
    model, _, inputs, clean, _ = small

    def energy(output, targets):
        assert targets is None
        return output.square().flatten(1).sum(1)

    whole = InputPathIntegratedGradients(model, objective=energy).attribute(inputs, clean, 3)
    part = InputPathIntegratedGradients(
        model, objective=energy, parameters=["2.weight", "0.bias"]
    ).attribute(inputs, clean, 3, per_sample=True)
    assert list(part) == ["0.bias", "2.weight"]
    assert_same({key: value.sum(0) for key, value in part.items()}, {k: whole[k] for k in part})
    plain = InputPathIntegratedGradients(model).attribute(inputs, clean, 3)
    assert not torch.allclose(plain["0.bias"], whole["0.bias"])


@pytest.mark.parametrize("name", ["batch_norm", "transformer_layer", "two inputs"])
def test_input_path_samples_together_are_the_samples_alone(name):
    model, inputs, clean = case(name)
    ig = InputPathIntegratedGradients(model)
    apart = ig.attribute(inputs, clean, 2, per_sample=True)
    size = len(input_path.several(inputs)[0])
    for sample in range(size):
        part = slice(sample, sample + 1)
        one, start = (tuple(t[part] for t in input_path.several(x)) for x in (inputs, clean))
        assert_same(ig.attribute(one, start, 2), {k: value[sample] for k, value in apart.items()})


def test_input_path_score_does_not_depend_on_how_the_loader_is_split(small):
    model, _, inputs, clean, _ = small
    ig = InputPathIntegratedGradients(model)
    whole = ig.score([(inputs, clean)], reducer="scalar", n_steps=3)
    split = ig.score(list(zip(inputs.split(2), clean.split(2), strict=True)), reducer="scalar")
    again = ig.score([(inputs[k : k + 1], clean[k : k + 1]) for k in range(3)], reducer="scalar")
    assert_close(again.values, split.values)
    three = ig.score(zip(inputs.split(1), clean.split(1), strict=True), reducer="scalar", n_steps=3)
    assert_close(three.values, whole.values)
    apart = ig.attribute(inputs, clean, 3, per_sample=True)
    assert_close(whole.values, unit_sums(whole.index, apart))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_input_path_gives_float32_at_least(dtype):
    model, inputs, clean = case("convolution")
    exact = InputPathIntegratedGradients(model).attribute(inputs, clean)
    rough = InputPathIntegratedGradients(model.to(dtype)).attribute(
        inputs.to(dtype), clean.to(dtype)
    )
    for name, value in rough.items():
        assert value.dtype == torch.float32
        far = (value.double() - exact[name]).abs().max() / exact[name].abs().max()
        assert float(far) < (1e-5 if dtype == torch.float32 else 0.05)


# Its mistakes


def ig_attribute(model=None, inputs=None, baselines=None, **more):
    model = convnet() if model is None else model
    inputs = inputs_for(convnet) if inputs is None else inputs
    return InputPathIntegratedGradients(model).attribute(
        inputs, inputs * 0.5 if baselines is None else baselines, **more
    )


X = inputs_for(convnet)
MISTAKES = {
    "another shape": (lambda: ig_attribute(baselines=X[..., :5]), DataError, r"shapes \[\(3, 2, 6"),
    "broadcast": (lambda: ig_attribute(baselines=X[:, :1]), DataError, "baseline of each input's"),
    "fewer samples": (lambda: ig_attribute(baselines=X[:2]), DataError, "hold 3 samples"),
    "one too many": (lambda: ig_attribute(baselines=(X, X)), DataError, "expected a baseline of"),
    "a number": (lambda: ig_attribute(baselines=0.0), DataError, "targets hold a float"),
    "whole numbers": (lambda: ig_attribute(inputs=X.long()), DataError, "int64: expected floating"),
    "whole baselines": (lambda: ig_attribute(baselines=X.long()), DataError, "tokens have no path"),
    "training mode": (lambda: ig_attribute(convnet().train()), ModelError, "in training mode"),
    "unknown rule": (lambda: ig_attribute(method="euler"), ParamattrError, "'euler' is not known"),
    "no node": (lambda: ig_attribute(n_steps=0), ParamattrError, "at least 1 node"),
    "not finite": (lambda: ig_attribute(inputs=X / 0), ObjectiveError, "for sample 0"),
    "parameters": (
        lambda: InputPathIntegratedGradients(convnet(), parameters=["nose"]),
        ModelError,
        "'nose' is not one",
    ),
    "objective": (
        lambda: InputPathIntegratedGradients(convnet(), objective=3),
        ObjectiveError,
        "the objective is 3",
    ),
    "objective of targets": (
        lambda: InputPathIntegratedGradients(convnet(), objective=absolute_error).attribute(X, X),
        ObjectiveError,
        "needs targets",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_input_path_says_what_is_wrong(mistake):
    call, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        call()


def test_input_path_ends_of_two_precisions_are_refused_by_name():
    with pytest.raises(ParamattrError, match="float"):
        ig_attribute(inputs=X.double(), baselines=X)


def test_input_path_refuses_gradients_that_are_not_finite():
    """The square root has no slope at zero."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)
            nn.init.ones_(self.linear.weight), nn.init.zeros_(self.linear.bias)

        def forward(self, x):
            return (0 * self.linear(x)).sqrt()

    batch = (-torch.ones(1, 1), -2 * torch.ones(1, 1))
    ig = InputPathIntegratedGradients(Root().eval())
    with pytest.raises(ObjectiveError, match=r"gradient .* not finite"):
        ig.attribute(*batch)
    with pytest.raises(ObjectiveError, match=r"gradient .* not finite"):
        ig.score([batch], reducer="scalar")


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([X], DataError, "pass .inputs, baselines."),
        ([(X, X[:, :, :5])], DataError, "expected a baseline of each"),
        ([(X.long(), X.long())], DataError, "expected floating-point"),
        ([], DataError, "gave no batch"),
    ],
)
def test_input_path_score_says_what_is_wrong_with_a_loader(loader, error, message):
    with pytest.raises(error, match=message):
        InputPathIntegratedGradients(convnet()).score(loader, reducer="kernel", n_steps=1)


def test_unknown_reducers_are_refused_by_all():
    for name, method in METHODS.items():
        with pytest.raises(UnitError, match="'nose' is not known"):
            method(convnet(), moved(convnet()), [data()], "nose")
        assert name


# Checkpoints


CHECKPOINTED = {
    "input path": lambda m, b, loader, **more: InputPathIntegratedGradients(m).score(
        loader, reducer="kernel", n_steps=2, **more
    ),
    "taylor": lambda m, b, loader, **more: gradient_times_change(
        m, b, loader, objective=absolute_error, **more
    ),
    "fisher": lambda m, b, loader, **more: fisher_times_change(
        m, b, loader, objective=absolute_error, **more
    ),
}


class CountingForward(nn.Module):
    """Counts the samples that go through a model."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.samples = []

    def forward(self, x):
        self.samples.append(len(x))
        return self.net(x)


def loader_of(*sizes):
    return random_batches(sizes or (2, 1, 2), (2, 6, 6), (2, 6, 6), seed=5)


def same_size():
    """Keep the image's size, so that a target can be an image too."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, padding=1)
        )
    ).double()


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_an_interrupted_score_goes_on_from_its_checkpoint(name, tmp_path):
    score, model = CHECKPOINTED[name], CountingForward(same_size()).eval()
    baseline, batches = moved(model), loader_of()
    straight = score(model, baseline, batches)
    whole = sum(model.samples)
    model.samples.clear()
    with pytest.raises(KeyboardInterrupt):
        score(model, baseline, cut(batches, 2), checkpoint=tmp_path / "sums")
    half = sum(model.samples)
    assert 0 < half < whole
    model.samples.clear()
    resumed = score(model, baseline, batches, checkpoint=tmp_path / "sums")
    assert torch.equal(resumed.values, straight.values)
    ends = 0 if name == "input path" else 2  # a new call compares the baseline with the path's end
    assert half + sum(model.samples) == whole + ends
    model.samples.clear()
    assert torch.equal(
        score(model, baseline, batches, checkpoint=tmp_path / "sums").values, straight.values
    )
    assert not model.samples


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_a_checkpoint_of_anything_else_is_refused(name, tmp_path):
    model = same_size().eval()
    baseline, batches, file = (
        moved(model),
        loader_of(),
        tmp_path / "sums",
    )
    score = CHECKPOINTED[name]
    score(model, baseline, batches, checkpoint=file)
    with pytest.raises(CheckpointError, match="other settings"):
        score(moved(model, seed=8), baseline, batches, checkpoint=file)
    with pytest.raises(CheckpointError, match="other data"):
        score(model, baseline, loader_of(2, 2, 2), checkpoint=file)
    for other in CHECKPOINTED.keys() - {name}:
        with pytest.raises(CheckpointError, match="other settings"):
            CHECKPOINTED[other](model, baseline, batches, checkpoint=file)
    if name != "input path":
        with pytest.raises(CheckpointError, match="other settings"):
            score(model, moved(model, seed=9), batches, checkpoint=file)


@pytest.mark.parametrize("first", ["faig", "fisher"])
def test_checkpoints_of_faig_and_fisher_at_one_node_are_not_mixed_up(first, tmp_path):
    model = same_size().eval()
    baseline, batches = moved(model), loader_of()
    options = {"reducer": "scalar", "checkpoint": tmp_path / "sums"}

    def faig():
        FAIG(model, baseline).score(batches, n_steps=1, method="riemann_left", **options)

    def fisher():
        fisher_times_change(model, baseline, batches, **options)

    one, two = (faig, fisher) if first == "faig" else (fisher, faig)
    one()
    with pytest.raises(CheckpointError, match="other settings"):
        two()


def test_an_input_path_checkpoint_of_other_settings_is_refused(tmp_path):
    model = same_size().eval()
    batches, file = loader_of(), tmp_path / "sums"

    def energy(output, targets):
        return output.square().flatten(1).sum(1)

    def score(*, n_steps=2, method="gausslegendre", reducer="kernel", **more):
        return InputPathIntegratedGradients(model, **more).score(
            batches, reducer=reducer, n_steps=n_steps, method=method, checkpoint=file
        )

    score()
    for other in (
        {"n_steps": 3},
        {"method": "riemann_left"},
        {"reducer": "scalar"},
        {"objective": energy},
        {"parameters": ["0.weight"]},
    ):
        with pytest.raises(CheckpointError, match="other settings"):
            score(**other)
    score()


# Gradient times change, Fisher times change


@pytest.mark.parametrize(
    ("at", "place"), [("target", 0.0), ("middle", 0.5), ("baseline", 1.0), (0.3, 0.3), (1, 1.0)]
)
@pytest.mark.parametrize("name", ["convolution", "grouped_transposed", "used_twice"])
def test_gradient_times_change_equals_the_loop(name, at, place):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    exact = eq6.attributions(model, baseline, absolute_error, inputs, targets, [place], [1.0])
    for reducer in ("kernel", "scalar"):
        scores = gradient_times_change(
            model, baseline, [(inputs, targets)], reducer=reducer, objective=absolute_error, at=at
        )
        assert scores.index == UnitIndex.of(model, reducer)
        assert_close(scores.values, unit_sums(scores.index, exact))


def test_gradient_times_change_takes_the_targets_gradient_and_kernels_by_default(small):
    model, baseline, inputs, _, targets = small
    found = gradient_times_change(model, baseline, [(inputs, targets)])
    left = FAIG(model, baseline).score(
        [(inputs, targets)], reducer="kernel", n_steps=1, method="riemann_left"
    )
    assert torch.equal(found.values, left.values)
    by_state = gradient_times_change(model, baseline.state_dict(), [(inputs, targets)])
    assert torch.equal(by_state.values, found.values)


@pytest.mark.parametrize("at", ["start", -0.1, 1.1, float("nan"), None, True, "0.5"])
def test_a_place_off_the_path_is_refused(small, at):
    model, baseline, inputs, _, targets = small
    with pytest.raises(ParamattrError, match=r"not on the path: expected 'target', 'middle'"):
        gradient_times_change(model, baseline, [(inputs, targets)], at=at)


def test_a_single_node_is_exact_for_constants_and_in_the_middle_for_lines():
    for at in ("target", 0.3, "middle", "baseline"):
        rule = single_node(at)
        assert rule.integrate(lambda x: 1.0) == 1
        assert (rule.integrate(lambda x: x) == 0.5) == (rule.degree == 1)
        assert rule.integrate(lambda x: x * x) != pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["convolution", "grouped_transposed", "used_twice", "batch_norm"])
@pytest.mark.parametrize("reducer", ["kernel", "scalar", "layer"])
def test_fisher_times_change_equals_the_loop(name, reducer):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    exact = eq6.attributions(model, baseline, absolute_error, inputs, targets, [0.0], [1.0])
    scores = fisher_times_change(
        model, baseline, [(inputs, targets)], reducer=reducer, objective=absolute_error
    )
    squares = {key: value.square() for key, value in exact.items()}
    assert_close(scores.values, unit_sums(scores.index, squares))


def test_fisher_times_change_by_hand():
    """L = (w x - y)^2 with w = 2, w' = 5, x = 3, y = 1: gradient 30, change 3."""
    target, other = (nn.Linear(1, 1, bias=False) for _ in range(2))
    nn.init.constant_(target.weight, 2.0)
    nn.init.constant_(other.weight, 5.0)
    batch = [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))]
    assert fisher_times_change(target, other, batch, reducer="scalar").values.tolist() == [8100.0]
    at = {"target": 30.0, "middle": 57.0, "baseline": 84.0}  # 2 (w x - y) x at w = 2, 3.5, 5
    for place, gradient in at.items():
        found = gradient_times_change(target, other, batch, reducer="scalar", at=place)
        assert found.values.tolist() == [gradient * 3]


# Weight magnitude


def test_weight_magnitude_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [-3.0, -4.0]]).view(2, 1, 1, 2))
        model[0].bias.copy_(torch.tensor([0.5, -0.5]))
        model[1].weight.copy_(torch.tensor([[-7.0, 2.0]]))
        model[1].bias.copy_(torch.tensor([-1.0]))
    assert weight_magnitude(model).values.tolist() == [3.0, 7.0]
    by_hand = {
        "scalar": [1.0, 2.0, 3.0, 4.0, 0.5, 0.5, 7.0, 2.0, 1.0],
        "layer": [11.0, 10.0],
        "output_channel": [3.0, 7.0, 9.0],
        "input_channel": [10.0, 7.0, 2.0],
    }
    for reducer, values in by_hand.items():
        assert weight_magnitude(model, reducer=reducer).values.tolist() == values


def test_absolute_change_by_hand():
    model, baseline = (nn.Conv2d(1, 2, (1, 2), bias=False) for _ in range(2))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0], [-3.0, -4.0]]).view(2, 1, 1, 2))
        baseline.weight.copy_(torch.tensor([[2.0, 2.0], [-3.5, -3.0]]).view(2, 1, 1, 2))
    assert absolute_change(model, baseline).values.tolist() == [5.0, 1.5]


# Random controls


LEVELS = st.sampled_from([0.0, 1.0, 2.0, -1.0])


@pytest.mark.filterwarnings("ignore:.*score of exactly zero")
@settings(max_examples=30)
@given(st.data(), st.integers(0, 2**31), st.booleans())
def test_within_layers_keeps_each_layers_count_at_every_size(data, seed, ties):
    numbers = LEVELS if ties else st.floats(-1e3, 1e3)
    scores = data.draw(scores_of(data.draw(indexes()), numbers))
    shuffled = random_within_layers(scores, seed=seed)
    assert shuffled.index == scores.index
    for count in {1, 2 % len(scores), len(scores) // 3, len(scores) // 2, len(scores) - 1}:
        own, other = (s.top(count=count).by_layer() for s in (scores, shuffled))
        assert own == other
    for fraction in (0.01, 0.1, 0.37):
        own, other = (s.top(fraction=fraction).by_layer() for s in (scores, shuffled))
        assert own == other


@settings(max_examples=20)
@given(st.data(), st.integers(0, 2**31))
def test_within_layers_of_a_selection(data, seed):
    selection = data.draw(selections_of(data.draw(indexes())))
    drawn = random_within_layers(selection, seed=seed).top(count=len(selection))
    assert drawn.by_layer() == selection.by_layer()
    assert len(drawn) == len(selection)


WIDE = seeded(lambda: nn.Sequential(nn.Conv2d(6, 10, 3), nn.Conv2d(10, 8, 3), nn.Conv2d(8, 4, 1)))


def test_within_layers_moves_the_positions_evenly():
    scores = random_scores(WIDE, seed=5)
    one, again, two = (random_within_layers(scores, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.values, again.values)
    assert not torch.equal(one.values, two.values)
    chosen = scores.top(fraction=0.5).chosen
    draws = [random_within_layers(scores, seed=k).top(fraction=0.5).chosen for k in range(150)]
    for units in scores.index.layers().values():
        own = chosen[units]
        share = float(own.double().mean())
        assert 0 < share < 1
        overlap = np.mean([float(draw[units][own].double().mean()) for draw in draws])
        # Each overlap is hypergeometric with mean `share`; the mean of 150 lies near it.
        assert abs(overlap - share) < 4 * (share * (1 - share) / int(own.sum()) / 150) ** 0.5


def test_within_layers_draws_every_arrangement():
    index = UnitIndex.of(nn.Sequential(nn.Conv1d(3, 1, 1), nn.Conv1d(1, 2, 1)), "kernel")
    chosen = Selection(index, torch.tensor([True, False, False, True, False]))
    found = Counter(
        tuple(random_within_layers(chosen, seed=seed).values.tolist()) for seed in range(600)
    )
    arrangements = itertools.product([0, 1, 2], [3, 4])
    assert found.keys() == {tuple(float(k in p) for k in range(5)) for p in arrangements}
    assert min(found.values()) > 60  # 100 of each are expected, with a spread of 9


def test_a_unit_that_spans_layers_counts_to_the_first_of_them():
    """Units 0 and 1 lie in both layers, 2 and 3 in the second alone."""
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 4, bias=False)))

    def spanning(name, parameter, module):
        labels = torch.arange(parameter.numel()).view(parameter.shape)
        return Units("all", (4,), labels)

    scores = weight_magnitude(model, reducer=spanning)
    by_rank = scores.values.argsort(descending=True).argsort()
    seen = Counter()
    for seed in range(40):
        drawn = random_within_layers(scores, seed=seed).values.argsort(descending=True).argsort()
        assert sorted(drawn[:2].tolist()) == sorted(by_rank[:2].tolist())
        assert sorted(drawn[2:].tolist()) == sorted(by_rank[2:].tolist())
        seen[tuple(drawn.tolist())] += 1
    assert len(seen) == 4


@pytest.mark.filterwarnings("ignore:.*score of exactly zero")
def test_ties_are_broken_before_the_shuffle():
    """Two layers whose units take turns: ties broken after it would move between the layers."""
    model = seeded(lambda: nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False)))

    def taking_turns(name, parameter, module):
        return Units("all", (6,), 2 * torch.arange(3).view(parameter.shape) + int(name[0]))

    index = UnitIndex.of(model, taking_turns)
    scores = Scores(index, torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]))
    for seed in range(20):
        drawn = random_within_layers(scores, seed=seed)
        for count in range(7):
            assert drawn.top(count=count).by_layer() == scores.top(count=count).by_layer()


def test_random_controls_leave_the_global_random_state_alone_and_do_not_use_it():
    scores = random_scores(WIDE, seed=2)
    torch.manual_seed(1)
    before = torch.get_rng_state().clone()
    one = [random_scores(WIDE, seed=2).values, random_within_layers(scores, seed=2).values]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    two = [random_scores(WIDE, seed=2).values, random_within_layers(scores, seed=2).values]
    assert all(map(torch.equal, one, two))
    assert not torch.equal(random_scores(WIDE, seed=3).values, one[0])


def test_within_layers_takes_scores_or_a_selection():
    values = random_scores(WIDE).values.clone()
    with pytest.raises(UnitError, match="takes Scores or a Selection: found a Tensor"):
        random_within_layers(values)
    scores = random_scores(WIDE)
    random_within_layers(scores, seed=1)
    assert torch.equal(scores.values, values)


# All of them


METHODS = {
    "input path": lambda m, b, loader, reducer: InputPathIntegratedGradients(m).score(
        ((x, 0.5 * x) for x, _ in loader), reducer=reducer, n_steps=2
    ),
    "taylor": lambda m, b, loader, reducer: gradient_times_change(m, b, loader, reducer=reducer),
    "taylor in the middle": lambda m, b, loader, reducer: gradient_times_change(
        m, b, loader, reducer=reducer, at="middle"
    ),
    "fisher": lambda m, b, loader, reducer: fisher_times_change(m, b, loader, reducer=reducer),
    "weight magnitude": lambda m, b, loader, reducer: weight_magnitude(m, reducer=reducer),
    "absolute change": lambda m, b, loader, reducer: absolute_change(m, b, reducer=reducer),
    "random": lambda m, b, loader, reducer: random_scores(m, reducer=reducer),
    "within layers": lambda m, b, loader, reducer: random_within_layers(
        absolute_change(m, b, reducer=reducer)
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reducer", REDUCER_NAMES)
def test_every_method_scores_every_kind_of_unit(method, reducer):
    model = convnet()
    loader = [data()]
    found = METHODS[method](model, moved(model), loader, reducer)
    index = UnitIndex.of(model, reducer)
    assert found.index == index
    assert found.values.shape == (len(index),)
    assert found.values.dtype == torch.float64
    if "random" in method or "within" in method:
        return
    # A unit's score is the sum of its entries' scores.
    scalars = METHODS[method](model, moved(model), loader, "scalar")
    entries = scalars.values.split([p.numel() for p in model.parameters()])
    state = {
        name: part.view(parameter.shape)
        for (name, parameter), part in zip(model.named_parameters(), entries, strict=True)
    }
    expected = torch.zeros(len(index), dtype=torch.float64)
    for name, labels in index.labels.items():
        for unit in labels.unique().tolist():
            expected[unit] += state[name][(labels == unit).expand(state[name].shape)].sum()
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-8)
    assert bool((found.values >= 0).all())
    assert float(found.values.max()) > 0
    assert {layer_of(name) for name in index.labels} == set(index.layers())


def drawing_sum(output, targets):
    torch.rand(1)
    return summed_output(output)


class RaisingSum(RaisesAt):
    """Raises at its k-th call, and sums the output till then."""

    def __call__(self, output, targets):
        return super().__call__(output, torch.zeros_like(output))


LEAVES_NO_TRACE = {
    **{
        name: (lambda m, b, call=call: call(m, b, drawing_loader(), "layer"), False)
        for name, call in METHODS.items()
    },
    "input path attribute": (
        lambda m, b: InputPathIntegratedGradients(m, objective=drawing_sum).attribute(
            X, X * 0.5, 2, per_sample=True
        ),
        False,
    ),
    "input path attribute raises": (
        lambda m, b: InputPathIntegratedGradients(m, objective=RaisingSum(2)).attribute(
            X, X * 0.5, 3
        ),
        True,
    ),
    "input path score raises": (
        lambda m, b: InputPathIntegratedGradients(m, objective=RaisingSum(3)).score(
            [(X, X * 0.5)], reducer="kernel", n_steps=2
        ),
        True,
    ),
    "taylor raises": (
        lambda m, b: gradient_times_change(m, b, [data()], objective=RaisesAt(2)),
        True,
    ),
    "fisher raises": (
        lambda m, b: fisher_times_change(m, b, [data()], objective=RaisesAt(2)),
        True,
    ),
}


@pytest.mark.parametrize("model", DISTURBED)
@pytest.mark.parametrize("call", LEAVES_NO_TRACE)
def test_no_method_leaves_a_trace(model, call):
    target = DISTURBED[model]()
    baseline = moved(target)
    act, raises = LEAVES_NO_TRACE[call]
    with torch.random.fork_rng(devices=[]):
        before = [*map(traces, (target, baseline)), world()]
        if raises:
            with pytest.raises(Stop):
                act(target, baseline)
        else:
            act(target, baseline)
        after = [*map(traces, (target, baseline)), world()]
    for side, one, two in zip(("target", "baseline", "world"), before, after, strict=True):
        for what in one:
            assert equal(one[what], two[what]), f"{what} of the {side}"

"""The self reference against the target's own output given as targets, method by method."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    PiecewiseLinear,
    absolute_error,
    fisher_times_change,
    gradient_times_change,
    self_reference,
    squared_error,
)
from paramattr.errors import CheckpointError, ObjectiveError
from paramattr.objectives import SelfReference
from tests.kills import check_resumes
from tests.models import ZOO, other_weights

NAMES = ("convolution", "linear", "embedding", "attention", "batch_norm", "tied", "with_unused")
DISTANCES = (squared_error, absolute_error)

pytestmark = pytest.mark.usefixtures("one_thread")


def case(name="convolution"):
    """Give a target, a baseline, inputs, and what the target makes of them."""
    model, inputs, _ = ZOO[name]()
    with torch.no_grad():
        return model, other_weights(model), inputs, model(inputs)


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    assert any(value.any() for value in found.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_it_equals_the_targets_own_output_as_targets(name, distance, per_sample):
    model, baseline, inputs, own = case(name)
    options = {"n_steps": 3, "per_sample": per_sample, "return_convergence_delta": True}
    found, delta = FAIG(model, baseline, objective=SelfReference(distance)).attribute(
        inputs, **options
    )
    expected, expected_delta = FAIG(model, baseline, objective=distance).attribute(
        inputs, own, **options
    )
    check_equal(found, expected)
    torch.testing.assert_close(delta, expected_delta, rtol=1e-9, atol=1e-12)
    assert delta.shape == ((2,) if per_sample else ())


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_targets_own_output(name):
    model, baseline, inputs, own = case(name)
    found = FAIG(model, baseline, objective=self_reference).score(
        [inputs[:1], inputs], reducer="layer", n_steps=3
    )
    expected = FAIG(model, baseline).score(
        [(inputs[:1], own[:1]), (inputs, own)], reducer="layer", n_steps=3
    )
    torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-12)
    assert found.values.any()


@pytest.mark.parametrize("size", [1, 2])
def test_targets_that_are_given_are_not_looked_at(size):
    model, baseline, inputs, own = case()
    faig = FAIG(model, baseline, objective=self_reference)
    expected = faig.attribute(inputs, n_steps=2)
    for given in (own + 1, torch.zeros(2, 1)):
        check_equal(faig.attribute(inputs, given, n_steps=2, internal_batch_size=size), expected)
        scores = [faig.score([d], reducer="scalar", n_steps=2) for d in ((inputs, given), inputs)]
        assert torch.equal(scores[0].values, scores[1].values)


@pytest.mark.parametrize(("distance", "bound"), [(squared_error, 1e-9), (absolute_error, 1e-2)])
def test_attributions_sum_to_the_baselines_distance_from_the_target(distance, bound):
    model, baseline, inputs, own = case()
    faig = FAIG(model, baseline, objective=SelfReference(distance))
    attributions, delta = faig.attribute(
        inputs, n_steps=64, per_sample=True, return_convergence_delta=True
    )
    with torch.no_grad():
        change = distance(baseline(inputs), own)  # the target's own distance is nothing
    totals = sum(value.flatten(1).sum(1) for value in attributions.values())
    torch.testing.assert_close(totals, change, rtol=bound, atol=0)  # kinks cost digits
    torch.testing.assert_close(totals - change, delta)
    again = faig.compute_convergence_delta(attributions, inputs)
    torch.testing.assert_close(again, delta)


def test_the_reference_is_the_target_all_along_a_path_with_corners():
    model, baseline, inputs, own = case()
    middle = other_weights(model, seed=5)
    path = PiecewiseLinear([model, middle, baseline])
    found = FAIG(model, baseline, objective=self_reference, path=path).attribute(inputs, n_steps=2)
    check_equal(found, FAIG(model, baseline, path=path).attribute(inputs, own, n_steps=2))


def test_any_function_of_two_outputs_is_a_distance():
    class Two(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x), x.sum()

    layer = nn.Linear(3, 2).double()
    model, baseline = Two(layer), Two(other_weights(layer))

    def distance(output, reference):
        return (output[0] - reference[0]).square().sum(1)

    inputs = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = FAIG(model, baseline, objective=SelfReference(distance)).attribute(inputs)
    expected = FAIG(layer, baseline.layer, objective=self_reference).attribute(inputs)
    check_equal(found, {f"layer.{name}": value for name, value in expected.items()})


def test_nothing_of_the_model_changes():
    model, baseline, inputs, _ = case("batch_norm")
    before = copy.deepcopy(model.state_dict())
    given = inputs.clone()
    state = torch.get_rng_state()
    FAIG(model, baseline, objective=self_reference).attribute(inputs, n_steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, given)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradient_times_change_takes_it_and_says_nothing_at_the_target():
    model, baseline, inputs, own = case()
    found, expected = (
        gradient_times_change(
            model, baseline, [data], reducer="scalar", objective=objective, at="middle"
        )
        for data, objective in ((inputs, self_reference), ((inputs, own), squared_error))
    )
    torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-12)
    assert found.values.any()
    for score in (gradient_times_change, fisher_times_change):  # the distance's lowest point
        nothing = score(model, baseline, [inputs], reducer="scalar", objective=self_reference)
        assert not nothing.values.any()


def test_the_input_path_has_no_target_to_compare_with():
    model = case()[0]
    with pytest.raises(ObjectiveError, match="needs targets"):
        InputPathIntegratedGradients(model, objective=self_reference)


def test_called_on_its_own_it_is_its_distance():
    draw = torch.Generator().manual_seed(0)
    output, targets = (torch.randn(2, 3, generator=draw) for _ in range(2))
    assert torch.equal(self_reference(output, targets), squared_error(output, targets))
    own = SelfReference(absolute_error)
    assert torch.equal(own(output, targets), absolute_error(output, targets))


def test_a_checkpoint_tells_it_from_other_objectives(tmp_path):
    model, baseline, inputs, own = case()
    options = {"reducer": "scalar", "n_steps": 2, "checkpoint": tmp_path / "sums.safetensors"}
    loader = [(inputs[:1], own[:1]), (inputs[1:], own[1:])]
    faig = FAIG(model, baseline, objective=self_reference)
    whole = faig.score(loader, **options)
    assert torch.equal(faig.score(loader, **options).values, whole.values)
    for objective in (squared_error, absolute_error, SelfReference(absolute_error)):
        with pytest.raises(CheckpointError, match="objective differ"):
            FAIG(model, baseline, objective=objective).score(loader, **options)


def test_a_checkpoint_resumes_it(tmp_path):
    model, baseline, inputs, _ = case()
    faig = FAIG(model, baseline, objective=self_reference)
    score = partial(faig.score, reducer="scalar", n_steps=2)
    check_resumes(score, [inputs[:1], inputs[1:]], 1, tmp_path / "sums.safetensors")

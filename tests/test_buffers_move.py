"""Statistics move along the path as parameters do: the answer is that of the two models."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.model_pairs import tuned
from paramattr import FAIG, Selection, UnitIndex, cross_entropy, squared_error, substitute
from paramattr.errors import ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

NORMS = {
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), (5, 4)),
    "batch norm 1d, sequences": (lambda: nn.BatchNorm1d(4), (5, 4, 3)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(4), (5, 4, 3, 3)),
    "batch norm 3d": (lambda: nn.BatchNorm3d(4), (5, 4, 2, 2, 2)),
    "batch norm, no affine": (lambda: nn.BatchNorm2d(4, affine=False), (5, 4, 3, 3)),
    "instance norm": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        (5, 4, 3, 3),
    ),
    "instance norm, no affine": (
        lambda: nn.InstanceNorm1d(4, track_running_stats=True),
        (5, 4, 6),
    ),
}


def normed(name):
    """Give a pair whose norm's statistics differ, in float64, and inputs and targets."""
    build, shape = NORMS[name]
    torch.manual_seed(0)
    model = nn.Sequential(build(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    inputs = torch.randn(shape, dtype=torch.float64)
    model(inputs)
    model.eval()
    return tuned(model, scale=0.2), model, inputs, torch.randn(5, 2, dtype=torch.float64)


def change(target, baseline, inputs, targets):
    with torch.no_grad():
        return squared_error(baseline(inputs), targets) - squared_error(target(inputs), targets)


@pytest.mark.parametrize("name", NORMS)
def test_attributions_sum_to_the_change_between_the_two_models(name):
    target, baseline, inputs, targets = normed(name)
    found = FAIG(target, baseline).attribute(inputs, targets, n_steps=16, per_sample=True)
    assert {"0.running_mean", "0.running_var"} <= found.keys()
    total = sum(value.flatten(1).sum(1) for value in found.values())
    expected = change(target, baseline, inputs, targets)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NORMS)
def test_without_the_statistics_the_sum_is_another(name):
    """The counter-property: parameters alone do not carry the change, and this would go unseen."""
    target, baseline, inputs, targets = normed(name)
    parameters = [name for name, _ in target.named_parameters()]
    found = FAIG(target, baseline, parameters=parameters).attribute(inputs, targets, n_steps=16)
    total = sum(value.sum() for value in found.values())
    assert abs(total - change(target, baseline, inputs, targets).sum()) > 1e-3


@pytest.mark.parametrize("name", NORMS)
def test_the_gradient_of_statistics_is_that_of_finite_differences(name):
    target, baseline, inputs, targets = normed(name)
    found = FAIG(target, baseline).attribute(inputs, targets, n_steps=24)
    small = 1e-6
    for buffer in ("0.running_mean", "0.running_var"):
        total = 0.0
        for alpha, weight in zip(*gauss(24), strict=True):
            place = copy.deepcopy(target)
            with torch.no_grad():
                for (_, own), other in zip(
                    [*place.named_parameters(), *floats(place)],
                    [*baseline.parameters(), *(b for _, b in floats(baseline))],
                    strict=True,
                ):
                    own.lerp_(other, alpha)
            speed = baseline.get_buffer(buffer) - target.get_buffer(buffer)
            ends = []
            for step in (-small, small):
                moved = copy.deepcopy(place)
                moved.get_buffer(buffer).add_(step * speed)
                with torch.no_grad():
                    ends.append(squared_error(moved(inputs), targets).sum())
            total += weight * (ends[1] - ends[0]) / (2 * small)
        torch.testing.assert_close(found[buffer].sum(), total, rtol=1e-5, atol=1e-8)


def gauss(nodes):
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return (places + 1) / 2, weights / 2


def floats(model):
    return [(n, b) for n, b in model.named_buffers() if b.is_floating_point()]


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(NORMS)), st.integers(1, 4))
def test_several_samples_at_once_are_as_one_by_one(name, at_once):
    target, baseline, inputs, targets = normed(name)
    faig = FAIG(target, baseline)
    alone = faig.attribute(inputs, targets, n_steps=3, per_sample=True)
    found = faig.attribute(inputs, targets, n_steps=3, per_sample=True, internal_batch_size=at_once)
    for key, value in alone.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)


def test_equal_statistics_are_not_listed():
    target, baseline, inputs, targets = normed("batch norm 2d")
    baseline.load_state_dict({**baseline.state_dict(), **dict(floats(target))})
    assert set(FAIG(target, baseline).attribute(inputs, targets)) == {
        name for name, _ in target.named_parameters()
    }


def test_a_pair_that_differs_in_statistics_alone():
    target, baseline, inputs, targets = normed("batch norm 2d")
    target.load_state_dict({**target.state_dict(), **dict(baseline.named_parameters())})
    found = FAIG(target, baseline).attribute(inputs, targets, n_steps=16)
    total = sum(value.sum() for value in found.values())
    expected = change(target, baseline, inputs, targets).sum()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-8)


def test_a_pair_trained_on_shifted_data_is_complete_to_1_percent():
    torch.manual_seed(0)
    baseline = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 2),
    )  # fmt: skip
    inputs = torch.randn(64, 1, 8, 8)
    classes = (inputs.mean((1, 2, 3)) > 0).long()
    target = train(baseline, inputs, classes)
    shifted = 2 * inputs + 1
    target = train(target, shifted, classes)
    faig = FAIG(target, baseline.eval(), objective=cross_entropy)
    found = faig.attribute(shifted[:8], classes[:8], method="adaptive", per_sample=True)
    total = sum(value.flatten(1).sum(1, dtype=torch.float64) for value in found.values())
    with torch.no_grad():
        ends = [cross_entropy(model(shifted[:8]), classes[:8]) for model in (target, baseline)]
    assert float((total.sum() - (ends[1] - ends[0]).sum()).abs() / (ends[1] - ends[0]).sum()) < 0.01
    assert float(found["1.running_mean"].abs().sum()) > 0


def train(model, inputs, classes):
    model = copy.deepcopy(model).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(inputs), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def test_the_padding_row_of_an_embedding_is_attributed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 1))
    model = model.double().eval()
    target = tuned(model, scale=0.3)
    with torch.no_grad():
        target[0].weight[0] += 1
    ids, truth = torch.tensor([[0, 2, 0, 5]]), torch.zeros(1, 1, dtype=torch.float64)
    found = FAIG(target, model).attribute(ids, truth, n_steps=8)
    assert found["0.weight"][0].abs().sum() > 0
    expected = change(target, model, ids, truth).sum()
    total = sum(value.sum() for value in found.values())
    torch.testing.assert_close(total, expected, rtol=1e-8, atol=1e-10)
    assert target[0].padding_idx == 0


def test_scaling_by_frequency_does_not_change_attributions():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(12, 1)).double().eval()
    scaled = nn.Sequential(nn.Embedding(6, 3, scale_grad_by_freq=True), plain[1], plain[2])
    scaled = scaled.double().eval()
    scaled.load_state_dict(plain.state_dict())
    ids, truth = torch.tensor([[1, 2, 1, 1]]), torch.zeros(1, 1, dtype=torch.float64)
    found = [
        FAIG(tuned(model), plain).attribute(ids, truth, n_steps=4) for model in (plain, scaled)
    ]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_what_differs_beside_parameters_and_buffers_is_said():
    target, baseline, inputs, targets = normed("batch norm 2d")
    baseline[0].eps = 0.5
    with pytest.warns(UserWarning, match=r"baseline model's own objective .*not attributed"):
        FAIG(target, baseline).attribute(inputs, targets)


def test_a_baseline_in_training_mode_is_left_as_it_was():
    target, baseline, inputs, targets = normed("batch norm 2d")
    baseline.train()
    before = copy.deepcopy(baseline.state_dict())
    FAIG(target, baseline).score([(inputs, targets)], reducer="layer", n_steps=2)
    assert baseline.training
    assert baseline[0].training
    for name, value in baseline.state_dict().items():
        assert torch.equal(value, before[name])


def test_everything_substituted_is_the_baseline_bit_for_bit():
    target, baseline, inputs, _ = normed("batch norm, no affine")
    index = UnitIndex.of(target, "layer")
    everything = Selection(index, torch.ones(len(index), dtype=torch.bool))
    with torch.no_grad():
        assert torch.equal(substitute(target, baseline, everything)(inputs), baseline(inputs))


class Shared(nn.Module):
    """Two buffers, which may be one tensor."""

    def __init__(self, *, persistent: bool = True) -> None:
        super().__init__()
        self.layer, both = nn.Linear(4, 2), torch.ones(4)
        self.register_buffer("gain", both, persistent=persistent)
        self.register_buffer("shift", both, persistent=persistent)

    def forward(self, x):
        return self.layer(x * self.gain + self.shift)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("name", ["gain", "shift"])
def test_buffers_that_are_tied_in_the_target_alone_are_refused(name, persistent):
    target, baseline = Shared(persistent=persistent).eval(), Shared(persistent=persistent).eval()
    setattr(baseline, name, torch.full((4,), 3.0))
    with pytest.raises(ModelError, match=r"'gain' and 'shift' are tied in the model but differ"):
        FAIG(target, baseline)


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_that_are_tied_in_the_baseline_alone_move_apart(persistent):
    target, baseline = Shared(persistent=persistent).eval(), Shared(persistent=persistent).eval()
    target.gain, target.shift = torch.full((4,), 3.0), torch.full((4,), 2.0)
    x, y = torch.randn(3, 4), torch.randn(3, 2)
    found = FAIG(target, baseline).attribute(x, y)
    assert found["gain"].any()
    assert found["shift"].any()
    change = squared_error(baseline(x), y) - squared_error(target(x), y)
    total = sum(value.double().sum() for value in found.values())
    torch.testing.assert_close(total.float(), change.sum(), rtol=1e-4, atol=1e-4)

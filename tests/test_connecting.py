"""A curve round a barrier: its equation, its training, and FAIG along it."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.model_pairs import PAIRS
from paramattr import FAIG, BezierPath, ParamattrError, connect, squared_error
from paramattr.errors import CheckpointError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.integers(0, 5))
def test_the_curve_is_its_equation_and_the_derivative_that_of_differences(alpha, seed):
    draw = torch.Generator().manual_seed(seed)
    points = [{"w": torch.randn(3, generator=draw, dtype=torch.float64)} for _ in range(3)]
    path = BezierPath(*points)
    target, middle, baseline = (point["w"] for point in points)
    expected = (1 - alpha) ** 2 * target + 2 * alpha * (1 - alpha) * middle + alpha**2 * baseline
    torch.testing.assert_close(path.evaluate(alpha)["w"], expected)
    small = 1e-6
    low, high = max(0.0, alpha - small), min(1.0, alpha + small)
    slope = (path.evaluate(high)["w"] - path.evaluate(low)["w"]) / (high - low)
    torch.testing.assert_close(path.derivative(alpha)["w"], slope, rtol=1e-4, atol=1e-4)


def test_a_middle_halfway_is_the_straight_line():
    target, baseline = nn.Linear(3, 2).double().eval(), nn.Linear(3, 2).double().eval()
    middle = copy.deepcopy(target)
    with torch.no_grad():
        for own, other in zip(middle.parameters(), baseline.parameters(), strict=True):
            own.lerp_(other, 0.5)
    x, y = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    curve = FAIG(target, baseline, path=BezierPath(target, middle, baseline))
    for name, value in FAIG(target, baseline).attribute(x, y).items():
        torch.testing.assert_close(curve.attribute(x, y)[name], value)


def rotated():
    """Two networks of one function whose hidden units are in another order: a barrier between."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1))
    x = torch.randn(256, 2)
    y = (x[:, :1] * x[:, 1:]).sin()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        optimiser.zero_grad()
        squared_error(model(x), y).mean().backward()
        optimiser.step()
    baseline = copy.deepcopy(model).eval()
    order = torch.randperm(24)
    target = copy.deepcopy(baseline)
    with torch.no_grad():
        target[0].weight.copy_(baseline[0].weight[order])
        target[0].bias.copy_(baseline[0].bias[order])
        target[2].weight.copy_(baseline[2].weight[:, order])
        target[2].bias += 0.1
    return target.eval(), baseline, x, y


def test_a_trained_curve_leads_round_a_barrier():
    target, baseline, x, y = rotated()
    data = [(x[k : k + 32], y[k : k + 32]) for k in range(0, 256, 32)]
    straight = FAIG(target, baseline).path_profile(data).barrier
    state = torch.get_rng_state()
    curve = connect(target, baseline, data, steps=400, learning_rate=1e-2)
    assert torch.equal(torch.get_rng_state(), state)
    faig = FAIG(target, baseline, path=curve)
    assert straight > 1
    assert faig.path_profile(data).barrier < straight / 10
    found, delta = faig.attribute(x, y, n_steps=64, return_convergence_delta=True)
    total = sum(value.double().sum() for value in found.values())
    assert abs(float(delta)) < 0.02 * abs(float(total))


def test_a_curve_is_saved_and_loaded(tmp_path):
    target, baseline, x, y = rotated()
    curve = connect(target, baseline, [(x, y)], steps=2)
    curve.save(tmp_path / "curve.safetensors")
    again = BezierPath.load(tmp_path / "curve.safetensors")
    for alpha in (0.0, 0.3, 1.0):
        for name, value in curve.evaluate(alpha).items():
            assert torch.equal(again.evaluate(alpha)[name], value)
    (tmp_path / "other.safetensors").write_bytes((tmp_path / "curve.safetensors").read_bytes()[:50])
    with pytest.raises(CheckpointError):
        BezierPath.load(tmp_path / "other.safetensors")


def test_statistics_stay_halfway_and_the_models_as_they_were():
    torch.manual_seed(0)
    pair = PAIRS["residual network, batch norm"]()
    before = copy.deepcopy(pair.target.state_dict())
    curve = connect(pair.target, pair.baseline, [pair.batch], pair.objective, steps=3)
    name = "1.running_var"
    half = (pair.target.get_buffer(name) + pair.baseline.get_buffer(name)) / 2
    torch.testing.assert_close(curve.middle[name], half)
    for key, value in pair.target.state_dict().items():
        assert torch.equal(value, before[key])
    faig = FAIG(pair.target, pair.baseline, objective=pair.objective, path=curve)
    faig.score([pair.batch], reducer="kernel", n_steps=2)


def test_mistakes():
    target, baseline, x, y = rotated()
    with pytest.raises(DataError, match="gave no batch"):
        connect(target, baseline, [])
    with pytest.raises(DataError, match="can be read only once"):
        connect(target, baseline, iter([(x, y)]), steps=3)
    with pytest.raises(ParamattrError, match="steps is 0"):
        connect(target, baseline, [(x, y)], steps=0)
    with pytest.raises(ParamattrError, match="learning_rate is -1"):
        connect(target, baseline, [(x, y)], learning_rate=-1)

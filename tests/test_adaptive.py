"""`method="adaptive"`: as many panels as completeness asks for, and what it says of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import FAIG, Adaptive, PiecewiseLinear
from paramattr.errors import ParamattrError
from paramattr.integration.integrals.adaptive import NODES
from tests.models import ZOO, other_weights

pytestmark = pytest.mark.usefixtures("one_thread")


class Power(nn.Module):
    """The weight to a power, so that the integrand is a polynomial of one degree less."""

    def __init__(self, weight, degree):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight, 1.0], dtype=torch.float64))
        self.degree = degree

    def forward(self, x):
        return x * self.weight[0] ** self.degree


class Kinked(nn.Module):
    """A steep bend in one place of the path, smooth elsewhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight, weight], dtype=torch.float64))

    def forward(self, x):
        return x * torch.relu(self.weight[:1] - 0.3) + self.weight[1:] ** 2


def value(output, targets):
    return output.flatten(1).sum(1)


def attribute(faig, x, **options):
    found, delta = faig.attribute(x, return_convergence_delta=True, **options)
    change = FAIG.compute_convergence_delta(faig, found, x)  # the same by another way
    torch.testing.assert_close(delta, change, rtol=1e-9, atol=1e-9)
    return found, delta


@pytest.mark.parametrize("degree", range(1, 13))
def test_a_polynomial_up_to_degree_11_takes_one_panel(degree):
    faig = FAIG(Power(2.0, degree), Power(-1.0, degree), objective=value)
    x = torch.ones(1, 1, dtype=torch.float64)
    found, delta = attribute(faig, x, method=Adaptive(rtol=1e-10))
    assert abs(delta) < 1e-9
    assert found["weight"][0].item() == pytest.approx((-1.0) ** degree - 2.0**degree, rel=1e-9)
    [spent] = faig.spent
    assert (spent.evaluations, spent.panels, spent.reason) == (NODES, 1, "converged")


def test_a_polynomial_of_a_higher_degree_takes_more():
    faig = FAIG(Power(2.0, 16), Power(-1.0, 16), objective=value)
    faig.attribute(torch.ones(1, 1, dtype=torch.float64), method=Adaptive(rtol=1e-10))
    assert faig.spent[0].panels > 1
    assert abs(faig.spent[0].residual) <= 1e-10


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_panels_gather_where_the_path_bends(rtol):
    faig = FAIG(Kinked(1.0), Kinked(-1.0), objective=value)
    x = torch.ones(1, 1, dtype=torch.float64)
    _, delta = attribute(faig, x, method=Adaptive(rtol=rtol, max_evaluations=2000))
    [spent] = faig.spent
    change = value(Kinked(-1.0)(x), None) - value(Kinked(1.0)(x), None)
    assert abs(delta) <= rtol * abs(change)
    assert spent.residual == pytest.approx((delta / change.abs()).item(), abs=1e-12)
    assert spent.reason == "converged"
    even = faig.attribute(
        x, n_steps=spent.evaluations, method="gausslegendre", return_convergence_delta=True
    )[1]
    if rtol < 1e-2:  # evenly spent, as many do worse
        assert abs(delta) < abs(even)


def test_a_tighter_tolerance_takes_more_and_gives_less_error():
    faig = FAIG(Kinked(1.0), Kinked(-1.0), objective=value)
    x = torch.ones(1, 1, dtype=torch.float64)
    taken = []
    for rtol in (1e-2, 1e-4, 1e-6):
        faig.attribute(x, method=Adaptive(rtol=rtol, max_evaluations=2000))
        taken.append(faig.spent[0])
    evaluations = [spent.evaluations for spent in taken]
    assert evaluations == sorted(set(evaluations))
    assert all(abs(s.residual) <= t for s, t in zip(taken, (1e-2, 1e-4, 1e-6), strict=True))


def test_a_jump_ends_with_the_narrowest_panel():
    def stepped(output, targets):  # a jump that no gradient sees
        return output.flatten() + 0.1 * (output.detach().flatten() > 0.3)

    target, baseline = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    for model, weight in ((target, 0.0), (baseline, 1.0)):
        nn.init.constant_(model.weight, weight)
    faig = FAIG(target, baseline, objective=stepped)
    x = torch.ones(1, 1, dtype=torch.float64)
    faig.attribute(x, method=Adaptive(rtol=1e-3, max_evaluations=10**6))
    [spent] = faig.spent
    assert spent.reason == "narrowest"
    assert spent.evaluations < 10**6


@settings(max_examples=25, deadline=None)
@given(most=st.integers(NODES, 150), breaks=st.integers(0, 2))
def test_no_more_is_spent_than_allowed(most, breaks):
    target, baseline = Kinked(1.0), Kinked(-1.0)
    points = [dict(Kinked(w).named_parameters()) for w in (1.0, 0.9, 0.2, -1.0)]
    path = PiecewiseLinear([points[0], *points[1 : 1 + breaks], points[-1]])
    faig = FAIG(target, baseline, objective=value, path=path)
    x = torch.ones(1, 1, dtype=torch.float64)
    faig.attribute(x, method=Adaptive(rtol=1e-12, max_evaluations=most))
    [spent] = faig.spent
    assert spent.evaluations <= max(most, (breaks + 1) * NODES)
    assert spent.reason == "max_evaluations"
    assert spent.panels >= breaks + 1


@pytest.mark.parametrize("name", list(ZOO))
def test_every_model_is_complete_and_close_to_a_fine_rule(name):
    model, inputs, targets = ZOO[name]()
    faig = FAIG(model, other_weights(model, scale=0.1))
    found, delta = faig.attribute(
        inputs,
        targets,
        method=Adaptive(rtol=1e-6, max_evaluations=5000),
        return_convergence_delta=True,
        per_sample=True,
    )
    fine, _ = faig.attribute(
        inputs, targets, n_steps=100, return_convergence_delta=True, per_sample=True
    )
    samples = len(delta)
    assert len(faig.spent) == samples
    for spent in faig.spent:
        assert abs(spent.residual) <= 1e-6 or spent.reason == "max_evaluations"
    for parameter, attribution in found.items():
        scale = fine[parameter].abs().max()
        torch.testing.assert_close(attribution, fine[parameter], rtol=1e-3, atol=1e-3 * scale)


def test_scores_settle_and_are_those_of_a_fine_rule():
    model, inputs, targets = ZOO["convolution"]()
    faig = FAIG(model, other_weights(model, scale=0.1))
    data = [(inputs[k : k + 1], targets[k : k + 1]) for k in range(len(inputs))]
    loose = faig.score(data, reducer="kernel", method="adaptive")
    assert len(faig.spent) == len(inputs)
    before = sum(spent.evaluations for spent in faig.spent)
    strict = faig.score(
        data,
        reducer="kernel",
        method=Adaptive(rtol=1e-5, max_evaluations=2000),
    )
    assert sum(spent.evaluations for spent in faig.spent) >= before
    fine = faig.score(data, reducer="kernel", n_steps=200)
    assert strict.top(fraction=0.5) == fine.top(fraction=0.5)
    for scores in (loose, strict):
        torch.testing.assert_close(scores.values, fine.values, rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rtol": 0.0}, r"rtol is 0\.0"),
        ({"rtol": float("nan")}, "rtol is nan"),
        ({"max_evaluations": 6}, "max_evaluations is 6: expected at least 7"),
        ({"max_evaluations": True}, "max_evaluations is True"),
    ],
)
def test_tolerances_that_cannot_be_are_refused(options, expected):
    with pytest.raises(ParamattrError, match=expected):
        Adaptive(**options)

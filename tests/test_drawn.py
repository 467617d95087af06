"""Nodes drawn per sample: right in the mean over draws for what is signed, and for that alone."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramattr import FAIG, BezierPath, squared_error
from paramattr.errors import ModelError, ParamattrError
from paramattr.integration.batches import Batch
from paramattr.integration.integrals.fixed import Drawn, Sizes
from paramattr.quadrature import drawn, gauss_legendre
from tests.kills import check_resumes
from tests.models import ZOO, batches, other_weights, samples_of
from tests.reference import drawn as reference
from tests.reference import eq6
from tests.test_barrier import HILL, Tent, loss

pytestmark = pytest.mark.usefixtures("one_thread")
SHIFTS = 128


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 1000), st.floats(0, 0.999))
def test_the_nodes_equal_the_definition(n, place, shift):
    rule = drawn(n, place, shift)
    assert rule.nodes == pytest.approx(reference.nodes(n, place, shift), abs=1e-9)
    assert rule.weights == pytest.approx([1 / n] * n)


def test_the_samples_nodes_fill_the_interval():
    places = sorted(drawn(1, place).nodes[0] for place in range(50))
    gaps = [after - before for before, after in zip([0, *places], [*places, 1], strict=True)]
    assert max(gaps) < 2 / 50  # nodes drawn without regard to each other leave gaps of log(50) / 50


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 100), st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_the_mean_over_shifts_is_the_integral(n, place, coefficients):
    def polynomial(x):
        return sum(c * x**k for k, c in enumerate(coefficients))

    exact = sum(c / (k + 1) for k, c in enumerate(coefficients))
    signed, magnitude = reference.mean_over_shifts(polynomial, n, 4000, place)
    assert signed == pytest.approx(exact, abs=1e-2)
    assert magnitude >= abs(signed) - 1e-9


@pytest.fixture(scope="module")
def case():
    model, inputs, targets = ZOO["convolution"]()
    return model, other_weights(model), inputs[:1], targets[:1]


def test_over_shifts_attributions_are_unbiased_and_magnitudes_are_not(case):
    model, baseline, inputs, targets = case
    faig = FAIG(model, baseline)
    rule = gauss_legendre(24)
    expected = eq6.attributions(
        model, baseline, squared_error, inputs, targets, rule.nodes, rule.weights
    )
    draws = [
        faig.attribute(inputs, targets, method=drawn(1, 3, (k + 0.5) / SHIFTS))
        for k in range(SHIFTS)
    ]
    total = sum(float(value.abs().sum()) for value in expected.values())
    bias = error = excess = 0.0
    for name, exact in expected.items():
        each = torch.stack([draw[name] for draw in draws])
        bias += float((each.mean(0) - exact[0]).abs().sum())
        error += float((each[0] - exact[0]).abs().sum())
        excess += float((each.abs().mean(0) - exact[0].abs()).sum())
    assert bias < 0.01 * total < error  # one draw alone is wrong: it is the mean that is right
    # The magnitude comes before the mean, and what changes its sign along the path adds to it.
    assert excess > 3 * bias


def test_one_node_at_the_same_place_for_all_samples_is_biased():
    def steep(x):
        return math.exp(4 * x)

    exact = math.expm1(4) / 4
    several = [drawn(1, place).integrate(steep) for place in range(64)]
    assert sum(several) / 64 == pytest.approx(exact, rel=0.02)
    assert drawn(1, 0).integrate(steep) < 0.6 * exact


def test_what_cannot_be_drawn_is_refused():
    for options in ({"n": 0, "place": 0}, {"n": 1, "place": 0, "shift": 1.0}):
        with pytest.raises(ParamattrError):
            drawn(**options)


UNITS = ["kernel", "layer"]


@pytest.fixture(scope="module")
def many():
    model, *data = samples_of("convolution", 7)
    return model, other_weights(model), data


def one_by_one(faig, inputs, targets, n_steps):
    """Score each sample alone, by the rule of its number."""
    each = [
        faig.score(
            [(inputs[k : k + 1], targets[k : k + 1])], reducer=UNITS, method=drawn(n_steps, k)
        )
        for k in range(len(inputs))
    ]
    return {units: torch.stack([own[units].values for own in each]).mean(0) for units in UNITS}


@pytest.mark.parametrize("options", [{}, {"partitions": 2}, {"internal_batch_size": 3}])
@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize("small", [0, 2**24])
def test_each_sample_of_a_loader_meets_the_nodes_of_its_number(many, n_steps, small, options):
    model, baseline, (inputs, targets) = many
    faig = FAIG(model, baseline)
    loader = batches((inputs, targets), 3, 1, 3)
    expected = one_by_one(faig, inputs, targets, n_steps)
    found = faig.score(
        {"one": loader, "again": loader},
        reducer=UNITS,
        method=Drawn(n_steps, Sizes(small=small)),
        **options,
    )
    for condition in ("one", "again"):
        for units in UNITS:
            torch.testing.assert_close(found[condition][units].values, expected[units])
            assert found[condition][units].spent.gradients == n_steps * len(inputs)


def test_a_resumed_run_meets_the_same_nodes(many, tmp_path):
    model, baseline, (inputs, targets) = many
    score = partial(FAIG(model, baseline).score, reducer="kernel", n_steps=1, method="drawn")
    check_resumes(score, batches((inputs, targets), 2, 2, 2, 1), 2, tmp_path / "sums.safetensors")


def test_a_share_of_the_samples_keeps_their_numbers(many):
    *_, (inputs, targets) = many
    whole = replace(Batch.of(inputs, targets), before=10)
    assert [one.before + one.first for one in whole.on(slice(1, None, 3)).chunks(1)] == [11, 14]


def test_attributions_of_a_batch_are_those_of_its_samples(many):
    model, baseline, (inputs, targets) = many
    faig = FAIG(model, baseline)
    whole = faig.attribute(inputs, targets, n_steps=2, method="drawn")
    each = faig.attribute(inputs, targets, n_steps=2, method="drawn", per_sample=True)
    for name, value in whole.items():
        torch.testing.assert_close(value, each[name].sum(0))


def test_a_barrier_between_the_nodes_of_one_sample_is_told():
    with pytest.warns(UserWarning, match="barrier 5"):
        FAIG(Tent(0.0).eval(), Tent(1.0).eval(), objective=loss).score(
            [HILL], reducer="layer", n_steps=1, method="drawn"
        )


def test_a_curved_path_is_refused(many):
    model, baseline, batch = many
    path = BezierPath(model, baseline, baseline)
    with pytest.raises(ModelError, match="the path is curved"):
        FAIG(model, baseline, path=path).score([batch], reducer="layer", method="drawn")

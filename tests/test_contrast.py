import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramattr import Scores, UnitIndex, contrast
from paramattr.errors import UnitError
from tests.tiny import SMALL, convnet, scores_of

ANY = scores_of(SMALL)


@given(ANY, ANY)
def test_two_conditions_are_antisymmetric(a, b):
    assert torch.equal(contrast(a, b).values, a.values - b.values)
    assert torch.equal(contrast(a, b).values, -contrast(b, a).values)


@given(ANY, ANY, ANY)
def test_three_conditions_take_the_mean_of_the_others(a, b, c):
    expected = a.values - (b.values + c.values) / 2
    assert torch.allclose(contrast(a, b, c).values, expected, rtol=1e-12, atol=1e-9)


@given(ANY, st.integers(1, 4))
def test_a_condition_against_itself_is_nothing(a, times):
    assert torch.allclose(contrast(a, *[a] * times).values, torch.zeros(9).double(), atol=1e-9)


def test_three_conditions_are_not_antisymmetric():
    a, b, c = (Scores(SMALL, torch.full((9,), value)) for value in (1.0, 2.0, 6.0))
    assert not torch.equal(contrast(a, b, c).values, -contrast(b, a, c).values)
    # Nor does exchanging the others matter.
    assert torch.equal(contrast(a, b, c).values, contrast(a, c, b).values)


def test_contrast_needs_another_condition():
    with pytest.raises(UnitError, match="at least one other condition"):
        contrast(Scores(SMALL, torch.ones(9)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_conditions_of_different_units_raise(place):
    conditions = [Scores(SMALL, torch.ones(9)) for _ in range(3)]
    index = UnitIndex.of(convnet(), "kernel")
    conditions[place] = Scores(index, torch.ones(len(index)))
    with pytest.raises(UnitError, match="same units"):
        contrast(*conditions)


POSITIVE = scores_of(SMALL, st.floats(0.5, 9))


@given(POSITIVE, POSITIVE, POSITIVE)
def test_shares_are_contrasted_without_their_totals(a, b, c):
    one, two, three = (s.values / s.values.sum() for s in (a, b, c))
    assert torch.allclose(contrast(a, b, weight="share").values, one - two, atol=1e-15)
    assert torch.equal(
        contrast(a, b, weight="share").values, -contrast(b, a, weight="share").values
    )
    three_ways = contrast(a, b, c, weight="share").values
    assert torch.allclose(three_ways, one - (two + three) / 2, atol=1e-15)
    assert torch.allclose(contrast(a * 7, b, weight="share").values, one - two, atol=1e-15)


@given(ANY, ANY, ANY, st.floats(-4, 4))
def test_a_number_weighs_the_others(a, b, c, weight):
    expected = a.values - weight * (b.values + c.values) / 2
    assert torch.allclose(contrast(a, b, c, weight=weight).values, expected, atol=1e-9)
    assert torch.equal(contrast(a, b, weight=0).values, a.values)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), True, "shares", None, [1.0]])
def test_other_weights_are_refused(weight):
    one = Scores(SMALL, torch.ones(9))
    with pytest.raises(UnitError, match=r"weight is .*: expected a finite number.*or 'share'"):
        contrast(one, one, weight=weight)


def test_scores_of_no_total_have_no_share():
    one, zero = (Scores(SMALL, torch.full((9,), value)) for value in (1.0, 0.0))
    for pair in ((one, zero), (zero, one), (-one, one)):
        with pytest.raises(UnitError, match=r"sum to .*: expected more than 0"):
            contrast(*pair, weight="share")

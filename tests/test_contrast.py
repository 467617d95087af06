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

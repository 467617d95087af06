import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import Scores, Selection, Unit, UnitIndex
from paramattr.errors import CheckpointError, UnitError
from tests.tiny import NUMBERS, SMALL, convnet, indexes, scores_of

# Scores are drawn with zeros among them, which `top` warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.*score of exactly zero")

FEW = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # so that ties are common


@given(scores_of(SMALL, FEW))
def test_rank_is_a_stable_descending_order(scores):
    expected = sorted(range(len(scores)), key=lambda unit: -float(scores.values[unit]))
    assert scores.rank().tolist() == expected  # Python's sort is stable


def test_ties_among_many_keep_their_order():
    index = UnitIndex.of(nn.Linear(300, 100, bias=False), "scalar")
    values = torch.arange(30000) % 3
    rank = Scores(index, values).rank().tolist()
    assert rank == [n for value in (2, 1, 0) for n in range(value, 30000, 3)]


@given(scores_of(SMALL), scores_of(SMALL), NUMBERS)
def test_arithmetic_is_that_of_each_unit(a, b, number):
    one, two = a.values, b.values
    assert torch.equal((a + b).values, one + two)
    assert torch.equal((a - b).values, one - two)
    assert torch.equal((a * b).values, one * two)
    assert torch.equal((-a).values, -one)
    assert torch.equal((a + number).values, one + number)
    assert torch.equal((number + a).values, one + number)
    assert torch.equal((a - number).values, one - number)
    assert torch.equal((number - a).values, number - one)
    assert torch.equal((a * number).values, one * number)
    assert torch.equal((number * a).values, one * number)
    assert torch.equal((np.float64(number) * a).values, one * number)
    assert (a + b).index == SMALL


@given(scores_of(SMALL), scores_of(SMALL, st.floats(0.5, 9)), st.floats(0.5, 9))
def test_division_is_that_of_each_unit(a, b, number):
    assert torch.equal((a / b).values, a.values / b.values)
    assert torch.equal((a / number).values, a.values / number)
    assert torch.equal((number / b).values, number / b.values)


@given(scores_of(SMALL))
def test_arithmetic_leaves_its_operands(scores):
    before = scores.values.clone()
    for _ in (scores + scores, scores - 1, scores * 2, -scores, scores.top(count=2)):
        assert torch.equal(scores.values, before)


def test_values_are_a_copy():
    values = torch.arange(9, dtype=torch.float64)
    scores = Scores(SMALL, values)
    values[0] = 100
    assert scores.values[0] == 0


def test_division_by_zero_says_which_unit():
    values = torch.ones(9)
    values[5] = 0
    with pytest.raises(UnitError, match=r"unit Unit\(name='0.bias', position=\(1,\)\) is inf"):
        1 / Scores(SMALL, values)


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_scores_of_different_units_do_not_combine(operation):
    other = UnitIndex.of(convnet(), "kernel")
    one, two = Scores(SMALL, torch.ones(9)), Scores(other, torch.ones(len(other)))
    with pytest.raises(UnitError, match=rf"needs the same units.*9 units.*{len(other)} units"):
        getattr(one, operation)(two)


def test_same_number_of_units_is_not_the_same_units():
    by_row, by_column = (
        UnitIndex.of(nn.Linear(3, 3), reducer) for reducer in ("output_channel", "input_channel")
    )
    with pytest.raises(UnitError, match="same units"):
        Scores(by_row, torch.ones(3)) + Scores(by_column, torch.ones(3))


@pytest.mark.parametrize("other", ["1", None, torch.ones(9)])
def test_only_scores_and_numbers_combine(other):
    with pytest.raises(TypeError):
        Scores(SMALL, torch.ones(9)) * other
    with pytest.raises(TypeError):
        other / Scores(SMALL, torch.ones(9))


@settings(max_examples=25)
@given(st.data())
def test_saving_and_loading_keeps_every_bit(tmp_path_factory, data):
    scores = data.draw(indexes().flatmap(scores_of))
    path = tmp_path_factory.mktemp("scores") / "scores.safetensors"
    scores.save(path)
    loaded = Scores.load(path)
    assert torch.equal(loaded.values.view(torch.int64), scores.values.view(torch.int64))
    assert loaded.index == scores.index
    assert [loaded.index[n] for n in range(len(loaded))] == [
        scores.index[n] for n in range(len(scores))
    ]
    assert (loaded - scores).values.abs().max() == 0


def test_loading_a_selection_as_scores_is_refused(tmp_path):
    Selection(SMALL, torch.ones(9, dtype=torch.bool)).save(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"holds selection: expected scores"):
        Scores.load(tmp_path / "s")


@given(scores_of(SMALL))
def test_layers_add_up_where_each_unit_lies_in_one(scores):
    totals = scores.by_layer()
    assert list(totals) == ["0", "1"]
    assert totals["0"] == pytest.approx(float(scores.values[:6].sum()))
    assert totals["1"] == pytest.approx(float(scores.values[6:].sum()))


def test_by_layer_leaves_out_layers_without_units():
    index = UnitIndex.of(convnet(), "kernel")
    totals = Scores(index, torch.arange(12)).by_layer()
    assert totals == {"head": math.fsum(range(6)), "tail": math.fsum(range(6, 12))}


@given(scores_of(SMALL, FEW), st.floats(1e-3, 1))
def test_top_fraction_is_the_rounded_count(scores, fraction):
    assert scores.top(fraction=fraction) == scores.top(count=max(1, round(9 * fraction)))


def test_the_best_unit_has_a_name():
    values = torch.zeros(9)
    values[3] = 1
    scores = Scores(SMALL, values)
    assert scores.index[scores.rank()[0]] == Unit("0.weight", (1, 1))
    chosen = scores.top(count=np.int64(1)).mask("0.weight")
    assert chosen.tolist() == [[False, False], [False, True]]

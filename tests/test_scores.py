import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import Scores, Selection, Unit, UnitIndex, Units, save_state_dict
from paramattr.errors import CheckpointError, UnitError
from tests.tiny import NUMBERS, SMALL, attention, convnet, indexes, scores_of

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


# What comes with the values


def full(seed: int, **more) -> Scores:
    draw = torch.Generator().manual_seed(seed)
    values, signed, error = torch.rand(3, 9, generator=draw, dtype=torch.float64)
    return Scores(SMALL, values, signed=signed - 0.5, standard_error=error, **more)


def all_nan(values: torch.Tensor) -> bool:
    return bool(values.isnan().all())


def test_sign_and_error_are_nan_and_nothing_is_unassigned_unless_given():
    scores = Scores(SMALL, torch.ones(9))
    assert all_nan(scores.signed)
    assert all_nan(scores.standard_error)
    assert scores.signed.dtype == scores.standard_error.dtype == torch.float64
    assert scores.unassigned == 0.0
    with pytest.raises(UnitError, match=r"signed scores need one value for each of 9 units"):
        Scores(SMALL, torch.ones(9), signed=torch.ones(8))
    with pytest.raises(UnitError, match=r"standard errors need one value"):
        Scores(SMALL, torch.ones(9), standard_error=torch.ones(()))


def test_sums_and_differences_of_sign_error_and_share():
    a, b = full(1, unassigned=0.25), full(2, unassigned=0.1)
    for found, sign in ((a + b, 1), (a - b, -1)):
        assert torch.equal(found.signed, a.signed + sign * b.signed)
        variance = a.standard_error.square() + b.standard_error.square()
        torch.testing.assert_close(found.standard_error.square(), variance)
        assert found.unassigned == 0.25
    assert math.isnan((a + full(3, unassigned=math.nan)).unassigned)


@given(NUMBERS)
def test_scaling_and_shifting_sign_error_and_share(number):
    a = full(1, unassigned=0.25)
    scaled, shifted, turned = a * number, a + number, number - a
    assert torch.equal(scaled.signed, a.signed * number)
    assert torch.equal(scaled.standard_error, a.standard_error * abs(number))
    assert torch.equal(shifted.signed, a.signed + number)
    assert torch.equal(shifted.standard_error, a.standard_error)
    assert torch.equal(turned.signed, number - a.signed)
    assert torch.equal(turned.standard_error, a.standard_error)
    assert torch.equal((-a).standard_error, a.standard_error)
    assert {s.unassigned for s in (scaled, shifted, turned, -a)} == {0.25}
    torch.testing.assert_close((a / -4).standard_error, a.standard_error / 4)


def test_products_and_quotients_of_scores_have_no_sign_error_or_share():
    a, b = full(1), full(2)
    for found in (a * b, a / b, 2 / a):
        assert all_nan(found.signed)
        assert all_nan(found.standard_error)
        assert math.isnan(found.unassigned)


def test_sign_error_and_share_are_saved_and_files_without_them_load(tmp_path):
    scores = full(1, unassigned=0.25)
    scores.save(tmp_path / "new")
    loaded = Scores.load(tmp_path / "new")
    assert torch.equal(loaded.signed, scores.signed)
    assert torch.equal(loaded.standard_error, scores.standard_error)
    assert loaded.unassigned == 0.25
    tensors, metadata = SMALL.to_tensors()
    save_state_dict(
        tmp_path / "old", {**tensors, "values": scores.values}, {"kind": "scores", **metadata}
    )
    old = Scores.load(tmp_path / "old")
    assert torch.equal(old.values, scores.values)
    assert all_nan(old.signed)
    assert old.unassigned == 0.0


# Units of score zero


@pytest.mark.filterwarnings("error")
def test_top_warns_of_units_that_score_nothing():
    scores = Scores(SMALL, torch.tensor([0, 3, 0, 2, 0, 0, 0, 0, 0]))
    assert len(scores.top(count=2)) == 2
    with pytest.warns(UserWarning, match=r"3 of the 5 units.*exactly zero.*top\(count=2\)"):
        taken = scores.top(count=5)
    assert scores.top(count=5, warn=False) == taken
    assert len((scores - 1e-3).top(count=5)) == 5
    assert len((scores - scores * 2).top(count=9)) == 9  # a contrast


# Units that span layers


def test_a_unit_that_spans_layers_counts_once_under_its_group():
    heads = UnitIndex.of(attention(), "attention_head")
    scores = Scores(heads, torch.tensor([1.0, 2.0]))
    assert scores.by_layer() == {"attention": 3.0}
    assert scores.top(count=1).by_layer() == {"attention": 1}
    layer = nn.TransformerEncoderLayer(4, 2, 6)

    def by_module(name, parameter, module):
        return None if "norm" in name else Units(name[:3], (1,), torch.zeros([1] * parameter.ndim))

    index = UnitIndex.of(nn.Sequential(layer), lambda n, p, m: by_module(n[2:], p, m))
    assert list(index.groups) == ["sel", "lin"]
    assert list(index.layers()) == ["sel", "lin"]


@settings(max_examples=30)
@given(st.data())
def test_layers_add_up_to_the_total_whatever_the_units_span(data):
    labels = {
        name: torch.tensor(data.draw(st.lists(st.integers(-1, 5), min_size=4, max_size=4)))
        for name in ("a.weight", "a.bias", "b.weight", "c.d.weight")
    }
    index = UnitIndex(dict.fromkeys(labels, (4,)), labels, {"a": (0, (2,)), "z": (2, (2, 2))})
    scores = Scores(index, torch.tensor(data.draw(st.lists(NUMBERS, min_size=6, max_size=6))))
    numbers = [n for units in index.layers().values() for n in units.tolist()]
    assert sorted(numbers) == list(range(6))
    assert sum(scores.by_layer().values()) == pytest.approx(float(scores.values.sum()))
    assert sum(scores.top(count=4, warn=False).by_layer().values()) == 4
    for path, units in index.layers().items():
        for unit in units.tolist():
            inside = {n.rpartition(".")[0] for n, own in labels.items() if (own == unit).any()}
            group = "a" if unit < 2 else "z"
            assert path == (inside.pop() if len(inside) == 1 else group)

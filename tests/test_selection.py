import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramattr import Scores, Selection, UnitIndex
from paramattr.errors import CheckpointError, UnitError
from tests.tiny import SMALL, convnet, indexes, scores_of, selections_of

# Scores are drawn with zeros among them, which `top` warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.*score of exactly zero")

SETS = selections_of(SMALL)
NOTHING = Selection(SMALL, torch.zeros(9, dtype=torch.bool))
EVERYTHING = ~NOTHING


def numbers(selection: Selection) -> set[int]:
    return set(selection.chosen.nonzero().flatten().tolist())


@given(scores_of(SMALL, st.sampled_from([0.0, 1.0, 2.0])))
def test_selections_of_the_same_scores_are_nested(scores):
    chain = [scores.top(count=count) for count in range(10)]
    for count, selection in enumerate(chain):
        assert len(selection) == count
    for smaller, larger in itertools.pairwise(chain):
        assert numbers(smaller) < numbers(larger)


@given(scores_of(SMALL), st.integers(1, 8))
def test_nothing_left_out_scores_higher(scores, count):
    top = scores.top(count=count)
    assert scores.values[top.chosen].min() >= scores.values[~top.chosen].max()


@given(SETS, SETS)
def test_operators_are_those_of_sets(a, b):
    assert numbers(a | b) == numbers(a) | numbers(b)
    assert numbers(a & b) == numbers(a) & numbers(b)
    assert numbers(a - b) == numbers(a) - numbers(b)
    assert numbers(~a) == set(range(9)) - numbers(a)
    assert len(a | b) == len(a) + len(b) - len(a & b)


@given(SETS, SETS, SETS)
def test_laws_of_set_algebra(a, b, c):
    assert ~(a | b) == ~a & ~b
    assert ~(a & b) == ~a | ~b
    assert ~~a == a
    assert a & (b | c) == (a & b) | (a & c)
    assert a | (b & c) == (a | b) & (a | c)
    assert a - b == a & ~b
    assert a | ~a == EVERYTHING
    assert a & ~a == NOTHING
    assert (a == b) == (numbers(a) == numbers(b))


@given(SETS, SETS)
def test_overlap_is_the_share_of_the_first(a, b):
    if not len(a):
        with pytest.raises(UnitError, match="empty selection has no overlap"):
            a.overlap(b)
        return
    assert a.overlap(b) == len(numbers(a) & numbers(b)) / len(numbers(a))
    assert a.overlap(a) == 1
    assert a.overlap(~a) == 0


def test_overlap_is_not_symmetric():
    one = Selection(SMALL, torch.arange(9) < 1)
    three = Selection(SMALL, torch.arange(9) < 3)
    assert one.overlap(three) == 1
    assert three.overlap(one) == pytest.approx(1 / 3)


@settings(max_examples=25)
@given(st.data())
def test_saving_and_loading_gives_the_same_selection(tmp_path_factory, data):
    selection = data.draw(indexes().flatmap(selections_of))
    path = tmp_path_factory.mktemp("selection") / "selection.safetensors"
    selection.save(path)
    loaded = Selection.load(path)
    assert loaded == selection
    assert torch.equal(loaded.chosen, selection.chosen)
    for name in selection.index.shapes:
        assert torch.equal(loaded.mask(name), selection.mask(name))


def test_loading_scores_as_a_selection_is_refused(tmp_path):
    Scores(SMALL, torch.ones(9)).save(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"holds scores: expected a selection"):
        Selection.load(tmp_path / "s")


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "overlap"])
def test_selections_of_different_units_do_not_combine(operation):
    index = UnitIndex.of(convnet(), "kernel")
    other = Selection(index, torch.ones(len(index), dtype=torch.bool))
    with pytest.raises(UnitError, match="needs the same units on both sides"):
        getattr(EVERYTHING, operation)(other)
    assert other != EVERYTHING


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__"])
def test_only_selections_combine(operation):
    with pytest.raises(UnitError, match=r"takes two selections: found a Scores.*scores.top"):
        getattr(EVERYTHING, operation)(Scores(SMALL, torch.ones(9)))


@settings(max_examples=30)
@given(st.data())
def test_masks_mark_the_entries_of_chosen_units(data):
    index = data.draw(indexes())
    selection = data.draw(selections_of(index))
    marked = {}
    for name, shape in index.shapes.items():
        mask = selection.mask(name)
        assert mask.shape == shape
        assert mask.dtype == torch.bool
        assert not (mask & (~selection).mask(name)).any()
        marked[name] = mask.double()
    # A unit is chosen where all its entries are marked, and none of them where it is not.
    sizes = index.reduce({name: torch.ones(shape) for name, shape in index.shapes.items()})
    assert torch.equal(index.reduce(marked), sizes * selection.chosen)


@given(SETS)
def test_by_layer_counts_units(selection):
    counts = selection.by_layer()
    assert counts == {"0": int(selection.chosen[:6].sum()), "1": int(selection.chosen[6:].sum())}


@pytest.mark.parametrize(
    "chosen", [torch.ones(9), torch.ones(8, dtype=torch.bool), torch.ones(9, 1, dtype=torch.bool)]
)
def test_a_selection_is_one_boolean_a_unit(chosen):
    with pytest.raises(UnitError, match=r"one boolean for each of 9 units: found torch"):
        Selection(SMALL, chosen)


def test_an_unknown_parameter_has_no_mask():
    with pytest.raises(UnitError, match=r"'2.weight' is not known.*'0.weight'"):
        EVERYTHING.mask("2.weight")


def test_chosen_is_a_copy():
    chosen = torch.ones(9, dtype=torch.bool)
    selection = Selection(SMALL, chosen)
    chosen[0] = False
    assert len(selection) == 9

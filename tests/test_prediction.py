"""Overlap scores against sets written out, thresholds against every threshold there is."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paramattr import FAIG, Scores, Selection, UnitIndex, contrast, self_reference
from paramattr.errors import CheckpointError, DataError, ParamattrError, UnitError
from paramattr.files.reading import load_tensors, save_state_dict
from paramattr.prediction import OverlapClassifier
from tests.tiny import SMALL, scores_of, selections_of

OTHER = UnitIndex.of(nn.Linear(3, 3), "scalar")


def units(*numbers: int) -> Selection:
    chosen = torch.zeros(len(SMALL), dtype=torch.bool)
    chosen[list(numbers)] = True
    return Selection(SMALL, chosen)


FOUND = {"a": units(0, 1, 2, 3), "b": units(3, 4)}


def ranked(*best: int) -> Scores:
    """Rank some units first, in this order, and the others after them."""
    values = torch.zeros(len(SMALL))
    for place, unit in enumerate(best):
        values[unit] = len(SMALL) - place
    return Scores(SMALL, values)


def overlaps(**values) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(own, dtype=torch.float64) for name, own in values.items()}


def rightly(values, inside, threshold) -> int:
    return sum((value >= threshold) == own for value, own in zip(values, inside, strict=True))


@given(
    st.lists(scores_of(SMALL), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from("abc"), selections_of(SMALL, least=1), min_size=1),
)
def test_overlap_scores_are_eq_8(samples, found):
    samples = [one for one in samples if len(one.values.unique()) > 1]
    if not samples:
        return
    scores = OverlapClassifier(found).scores(samples)
    assert list(scores) == list(found)
    for condition, selection in found.items():
        wanted = set(selection.chosen.nonzero().flatten().tolist())
        for number, sample in enumerate(samples):
            order = sorted(range(len(SMALL)), key=lambda u, s=sample: -float(s.values[u]))
            own = set(order[: len(wanted)])
            assert scores[condition][number] == pytest.approx(len(own & wanted) / len(own))


def test_as_many_units_are_taken_as_the_condition_has():
    scores = OverlapClassifier(FOUND).scores([ranked(3, 0, 8, 7), ranked(4, 3)])
    assert scores["a"].tolist() == [0.5, 0.75]  # the second's last two places are units 0 and 1
    assert scores["b"].tolist() == [0.5, 1.0]


@given(
    st.lists(
        st.tuples(st.integers(0, 6).map(lambda k: k / 6), st.booleans()), min_size=2, max_size=12
    ).filter(lambda rows: 0 < sum(inside for _, inside in rows) < len(rows))
)
def test_no_threshold_does_better_than_the_fitted_one(rows):
    values, inside = zip(*rows, strict=True)
    classifier = OverlapClassifier({"a": FOUND["a"]})
    classifier.fit_scores(overlaps(a=values), [("a",) if own else () for own in inside])
    threshold = classifier.thresholds["a"]
    assert 0 <= threshold <= 1
    every = [k / 120 for k in range(121)]  # all levels, and places between them
    assert rightly(values, inside, threshold) == max(rightly(values, inside, t) for t in every)
    predicted = classifier.predict_scores(overlaps(a=values))
    assert [("a" in one) for one in predicted] == [value >= threshold for value in values]


@pytest.mark.parametrize(
    ("values", "inside", "expected"),
    [
        ([0.2, 0.6], [False, True], 0.4),
        # 0.1 to 0.3 and 0.4 to 0.9 do equally well: one sample wrong
        ([0.1, 0.3, 0.4, 0.9], [False, True, False, True], 0.65),
        # the wide gap is the first
        ([0.1, 0.6, 0.7, 0.9], [False, True, False, True], 0.35),
        # all samples right above all of them would be one better than any other place
        ([0.2, 0.3, 0.4, 0.6], [True, False, False, False], 0.8),
        ([0.3, 0.4, 0.5], [True, True, False], 0.15),
    ],
)
def test_the_middle_of_the_widest_gap_is_taken(values, inside, expected):
    classifier = OverlapClassifier({"a": FOUND["a"]})
    classifier.fit_scores(overlaps(a=values), ["a" if own else () for own in inside])
    assert classifier.thresholds["a"] == pytest.approx(expected)


def test_a_sample_is_in_several_conditions_or_in_none():
    samples = [ranked(0, 1, 2, 3), ranked(3, 4), ranked(3, 2, 1, 4), ranked(8, 7, 6, 5)]
    labels = ["a", ["b"], {"a", "b"}, ()]
    classifier = OverlapClassifier(FOUND)
    scores = classifier.scores(samples)
    assert scores["a"].tolist() == [1.0, 0.75, 0.75, 0.0]
    assert scores["b"].tolist() == [0.0, 1.0, 0.5, 0.0]
    assert classifier.fit(samples, labels) is classifier
    assert classifier.thresholds["b"] == 0.25
    found = classifier.predict(samples)
    assert found[1] == {"a", "b"}
    assert found[3] == frozenset()
    assert ["b" in one for one in found] == [False, True, True, False]


def test_a_sample_at_the_threshold_is_in():
    classifier = OverlapClassifier(FOUND, thresholds={"a": 0.5, "b": 0.500001})
    assert classifier.predict([ranked(3, 0, 8, 7)]) == [{"a"}]


def test_what_is_saved_is_read_again(tmp_path):
    notes = {"model": "small", "steps": 4}
    saved = OverlapClassifier(FOUND, thresholds={"a": 0.5, "b": 0.25}, notes=notes)
    saved.save(tmp_path / "classifier.safetensors")
    read = OverlapClassifier.load(tmp_path / "classifier.safetensors", lambda best: ranked(*best))
    assert read.found == saved.found
    assert list(read.found) == ["a", "b"]
    assert read.thresholds == saved.thresholds
    assert read.notes == notes
    assert read.predict([(3, 4)]) == [{"a", "b"}]
    assert OverlapClassifier.load(tmp_path / "classifier.safetensors").rank is None


def test_it_is_saved_before_it_is_fitted_too(tmp_path):
    OverlapClassifier(FOUND).save(tmp_path / "classifier.safetensors")
    read = OverlapClassifier.load(tmp_path / "classifier.safetensors")
    assert (read.thresholds, read.notes) == ({}, {})


def test_what_is_no_whole_classifier_is_refused(tmp_path):
    ranked(0).save(tmp_path / "scores.safetensors")
    with pytest.raises(CheckpointError, match="holds scores: expected an overlap classifier"):
        OverlapClassifier.load(tmp_path / "scores.safetensors")
    OverlapClassifier(FOUND).save(tmp_path / "whole.safetensors")
    tensors, metadata = load_tensors(tmp_path / "whole.safetensors")
    for missing in ("chosen.b", "labels.0.weight"):
        kept = {name: tensor for name, tensor in tensors.items() if name != missing}
        save_state_dict(tmp_path / "part.safetensors", kept, metadata)
        with pytest.raises(CheckpointError, match=f"lacks '{missing}'"):
            OverlapClassifier.load(tmp_path / "part.safetensors")
    for missing in ("thresholds", "conditions", "shapes"):
        kept = {name: value for name, value in metadata.items() if name != missing}
        save_state_dict(tmp_path / "part.safetensors", tensors, json.loads(json.dumps(kept)))
        with pytest.raises(CheckpointError, match=f"lacks '{missing}'"):
            OverlapClassifier.load(tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match="is not there"):
        OverlapClassifier.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, "there is no condition"),
        ({"a": [1, 2]}, "condition 'a' are a list"),
        ({"a": ranked(0)}, "condition 'a' are a Scores"),
        ({"a": units()}, "condition 'a' has no unit"),
        ({1: FOUND["a"]}, "condition 1 has no name"),
        ({**FOUND, "c": Selection(OTHER, torch.ones(12, dtype=torch.bool))}, "classifying 'c'"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(found, expected):
    with pytest.raises(UnitError, match=expected):
        OverlapClassifier(found)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5", None])
def test_thresholds_are_numbers_from_0_to_1(threshold):
    with pytest.raises(UnitError, match=r"threshold .* of 'a'"):
        OverlapClassifier(FOUND, thresholds={"a": threshold})


def test_a_threshold_of_no_condition_is_refused():
    with pytest.raises(UnitError, match=r"threshold 0.5 of 'c'"):
        OverlapClassifier(FOUND, thresholds={"c": 0.5})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "b"], "3 samples and 2 labels"),
        (["a", "b", "c"], "label 'c' of sample 2 is not a condition"),
        (["a", ("a", "c"), ()], "label 'c' of sample 1 is not a condition"),
        (["a", "a", ["a", "b"]], "all of the samples are labelled 'a'"),
        (["a", (), "a"], "none of the samples are labelled 'b'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, expected):
    classifier = OverlapClassifier(FOUND)
    with pytest.raises(DataError, match=expected):
        classifier.fit([ranked(0), ranked(3), ranked(8)], labels)
    assert classifier.thresholds == {}


@pytest.mark.parametrize("scores", [{}, overlaps(a=[0.5]), overlaps(a=[0.5], b=[0.5, 0.6])])
def test_overlap_scores_of_other_conditions_are_refused(scores):
    classifier = OverlapClassifier(FOUND, thresholds={"a": 0.5, "b": 0.5})
    with pytest.raises(DataError, match="the overlap scores are"):
        classifier.predict_scores(scores)
    with pytest.raises(DataError, match="the overlap scores are"):
        classifier.fit_scores(scores, ["a"])


def test_samples_that_cannot_be_ranked_are_refused():
    classifier = OverlapClassifier(FOUND)
    with pytest.raises(DataError, match="there is no sample"):
        classifier.scores([])
    with pytest.raises(DataError, match="sample 1 is ranked by a Tensor"):
        classifier.scores([ranked(0), torch.zeros(9)])
    with pytest.raises(
        DataError, match="sample 1 gives every unit the score 0: expected scores that differ"
    ):
        classifier.scores([ranked(0), Scores(SMALL, torch.zeros(9))])
    with pytest.raises(UnitError, match="same units"):
        classifier.scores([Scores(OTHER, torch.arange(12.0))])


def test_predicting_needs_thresholds_before_the_ranking():
    def rank(sample):
        raise AssertionError("the work began")

    classifier = OverlapClassifier(FOUND, rank, thresholds={"a": 0.5})
    with pytest.raises(ParamattrError, match="condition 'b' has no threshold: call fit first"):
        classifier.predict([1])
    with pytest.raises(ParamattrError, match="condition 'b' has no threshold"):
        classifier.predict_scores(overlaps(a=[0.5], b=[0.5]))


def test_it_classifies_inputs_of_any_model():
    # The fine-tuning changed how two features are read: each sample has one of them.
    baseline = nn.Linear(4, 2, bias=False).double()
    target = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        baseline.weight.zero_()
        target.weight.copy_(torch.tensor([[1.0, 1.0, 0, 0.01], [0, 0, 1.0, 1.0]]))
    faig = FAIG(target, baseline, objective=self_reference)
    draw = torch.Generator().manual_seed(0)
    size = 0.5 + torch.rand(8, 4, generator=draw, dtype=torch.float64)
    data = {
        "left": size * torch.tensor([1.0, 1, 0, 0]),
        "right": size * torch.tensor([0.0, 0, 1, 1]),
    }
    scores = {name: faig.score([own], reducer="scalar") for name, own in data.items()}
    found = {
        "left": contrast(scores["left"], scores["right"]).top(count=2),
        "right": contrast(scores["right"], scores["left"]).top(count=2),
    }
    classifier = OverlapClassifier(found, lambda one: faig.score([one[None]], reducer="scalar"))
    samples = [*data["left"][:4], *data["right"][:4]]
    labels = ["left"] * 4 + ["right"] * 4
    classifier.fit(samples, labels)
    held_out = [*data["left"][4:], *data["right"][4:]]
    assert classifier.predict(held_out) == [frozenset([label]) for label in labels]

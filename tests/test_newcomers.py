"""What newcomers write first is an error that says what to write instead, before any gradient."""

import copy
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import paramattr
from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    ParameterPathIntegratedGradients,
    cross_entropy,
    logit_difference,
    next_token_cross_entropy,
    token_cross_entropy,
)
from paramattr.errors import CheckpointError, ObjectiveError, ParamattrError, UnitError, an
from paramattr.files.resume import check_stamp
from paramattr.units.reducers import get_reducer
from tests.tiny import moved, seeded

LOGITS = torch.zeros(4, 3)
TOKENS = torch.zeros(2, 5, 3)
LABELS = torch.tensor([0, 2, 1, 0])
OF_TOKENS = torch.tensor([[0, 1, 2, 0, -100], [1, 1, 1, 1, 1]])


def linear() -> nn.Module:
    return seeded(lambda: nn.Linear(2, 3)).eval()


def pair(**options) -> FAIG:
    model = linear()
    return FAIG(model, moved(model), **options)


@pytest.mark.parametrize(
    ("objective", "logits", "labels"),
    [
        (cross_entropy, LOGITS, LABELS),
        (token_cross_entropy, TOKENS, OF_TOKENS),
        (next_token_cross_entropy, TOKENS, OF_TOKENS),
    ],
)
class TestClassLabels:
    @pytest.mark.parametrize("label", [3, 50256, -1, -101])
    def test_a_label_out_of_range_is_named_with_the_number_of_classes(
        self, objective, logits, labels, label
    ):
        wrong = labels.clone()
        wrong.view(-1)[-1] = label
        with pytest.raises(ObjectiveError, match=rf"label {label} .*3 classes.*0 to 2.*-100"):
            objective(logits, wrong)

    def test_labels_of_every_integer_type_count_alike(self, objective, logits, labels):
        positive = labels.clamp(min=0)
        expected = objective(logits, positive)
        for dtype in (torch.int32, torch.int16, torch.uint8):
            torch.testing.assert_close(objective(logits, positive.to(dtype)), expected)

    def test_float_labels_are_refused_with_the_way_to_whole_numbers(
        self, objective, logits, labels
    ):
        with pytest.raises(ObjectiveError, match=r"float32.*\.long\(\)"):
            objective(logits, labels.float())

    def test_one_hot_labels_of_whole_numbers_are_told_from_classes(self, objective, logits, labels):
        one_hot = nn.functional.one_hot(labels.clamp(min=0), 3)
        with pytest.raises(ObjectiveError, match=r"one-hot.*argmax\(-?\d\)"):
            objective(logits, one_hot)


def test_labels_that_count_from_one_are_told_so():
    with pytest.raises(ObjectiveError, match=r"count from 1.*subtract 1"):
        cross_entropy(LOGITS, torch.tensor([1, 2, 3, 1]))


def test_a_column_of_labels_is_told_to_be_squeezed():
    with pytest.raises(ObjectiveError, match=r"\(4, 1\).*squeeze\(1\)"):
        cross_entropy(LOGITS, LABELS[:, None])


def test_probabilities_of_the_output_shape_stay_targets():
    uniform = torch.full((4, 3), 1 / 3)
    torch.testing.assert_close(cross_entropy(LOGITS, uniform), torch.full((4,), 3.0).log())


def test_ignored_labels_still_count_nothing():
    assert cross_entropy(LOGITS, torch.tensor([-100, 0, 1, 2]))[0] == 0


def test_the_answer_of_a_logit_difference_is_one_of_the_classes():
    with pytest.raises(ObjectiveError, match=r"distractor is 3.*3 classes"):
        logit_difference(0, 3)(LOGITS, None)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_wrong_label_stops_a_score_before_the_work(at_once):
    batch = (torch.randn(3, 2), torch.tensor([0, 7, 1]))
    with pytest.raises(ObjectiveError, match="label 7"):
        pair(objective=cross_entropy).score([batch], reducer="scalar", internal_batch_size=at_once)


def test_labels_are_scored_alike_one_by_one_and_at_once():
    batch = (seeded(lambda: torch.randn(4, 2)), LABELS)
    one, all_of_them = (
        pair(objective=cross_entropy).score([batch], reducer="scalar", internal_batch_size=n)
        for n in (1, 4)
    )
    torch.testing.assert_close(one.values, all_of_them.values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a card")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_missing_card_is_said_before_the_work(device):
    with pytest.raises(ParamattrError, match=r"device 'cuda.*cannot be used.*one of cpu"):
        pair(device=device)


def test_a_device_that_is_none_is_said():
    with pytest.raises(ParamattrError, match=r"device 'gpu' cannot be used.*one of cpu"):
        pair(device="gpu")


class TestCaptumsKeywords:
    @pytest.mark.parametrize("method", ["attribute", "score", "compute_convergence_delta"])
    def test_target_is_told_to_be_targets(self, method):
        with pytest.raises(ParamattrError, match=r"target=.*targets.*cross_entropy"):
            getattr(pair(), method)(torch.randn(1, 2), target=0)

    @pytest.mark.parametrize("method", ["attribute", "score", "compute_convergence_delta"])
    def test_baselines_are_told_to_be_a_model_of_the_constructor(self, method):
        with pytest.raises(ParamattrError, match=r"baselines=.*FAIG\(target, baseline"):
            getattr(pair(), method)(torch.randn(1, 2), baselines=torch.zeros(1, 2))

    def test_the_constructor_says_it_too(self):
        with pytest.raises(ParamattrError, match=r"baselines=.*FAIG\(target, baseline"):
            FAIG(linear(), baselines=torch.zeros(1, 2))

    def test_baselines_along_the_input_stay(self):
        inputs = torch.randn(1, 2)
        found = InputPathIntegratedGradients(linear()).attribute(inputs, baselines=0 * inputs)
        assert set(found) == {"weight", "bias"}

    def test_another_unknown_keyword_is_python_s_own_error(self):
        with pytest.raises(TypeError, match="unexpected keyword argument 'inputz'"):
            pair().attribute(inputz=1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("head", "attention_head"),
        ("heads", "attention_head"),
        ("Neurons", "neuron"),
        ("kernal", "kernel"),
        ("layers", "layer"),
        ("out_channel", "output_channel"),
        ("rank", "rank_component"),
    ],
)
def test_a_near_miss_of_a_reducer_is_guessed(written, meant):
    with pytest.raises(UnitError, match=rf"did you mean .*'{meant}'"):
        get_reducer(written)


def test_a_reducer_like_no_other_is_not_guessed():
    with pytest.raises(UnitError, match="expected one of") as found:
        get_reducer("zzzz")
    assert "did you mean" not in str(found.value)


def test_faig_goes_by_its_short_name_in_errors():
    with pytest.raises(TypeError, match=r"^FAIG\.__init__\(\) missing .*'baseline'"):
        FAIG(linear())
    assert ParameterPathIntegratedGradients is FAIG
    assert copy.deepcopy(FAIG) is FAIG
    assert FAIG.__name__ == "FAIG"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (int, "an int"),
        (OrderedDict, "an OrderedDict"),
        (nn.LSTM, "an LSTM"),
        (nn.Linear, "a Linear"),
        (dict, "a dict"),
        (type(None), "None"),
        ("SRResNet", "an SRResNet"),
        ("UNet", "a UNet"),
        ("uint8", "a uint8"),
        ("MLP", "an MLP"),
        ("ViT", "a ViT"),
        ("GPT2LMHeadModel", "a GPT2LMHeadModel"),
        ("ReLU", "a ReLU"),
        ("LoRA", "a LoRA"),
    ],
)
def test_a_kind_has_its_article(word, expected):
    assert an(word) == expected


def test_no_message_writes_an_article_before_a_type_by_hand():
    root = Path(paramattr.__file__).parent
    by_hand = re.compile(r"\ban? \{type\(")
    files = [*root.rglob("*.py"), *(root.parent / "examples").rglob("*.py")]
    assert [str(file) for file in files if by_hand.search(file.read_text())] == []


def test_a_mismatch_of_nodes_is_said_in_words():
    there, here = ({"rule": ["gausslegendre", [0.1] * n, [1 / n] * n]} for n in (4, 8))
    with pytest.raises(CheckpointError) as found:
        check_stamp(there, here, "checkpoint a")
    assert "rule differs: gausslegendre with 4 nodes there, gausslegendre with 8 nodes here" in (
        str(found.value)
    )
    assert "0.1" not in str(found.value)


def test_a_mismatch_of_other_nodes_of_one_number_is_not_said_to_be_the_same():
    there, here = ({"rule": ["midpoint", [at], [1.0]]} for at in (0.5, 0.25))
    with pytest.raises(CheckpointError, match="midpoint with 1 node there, another here"):
        check_stamp(there, here, "checkpoint a")


def test_a_mismatch_of_objectives_shows_names_and_no_digest():
    there, here = ({"objective": f"paramattr.objectives.{n} {n[0] * 64}"} for n in ("abs", "def"))
    with pytest.raises(CheckpointError) as found:
        check_stamp(there, here, "checkpoint a")
    assert "paramattr.objectives.abs there, paramattr.objectives.def here" in str(found.value)

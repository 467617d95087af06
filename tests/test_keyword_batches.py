"""Batches as data loaders of the field give them: mappings, dataclasses, padding, generators."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.model_pairs import PAIRS, tokens, tuned
from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    Scores,
    cross_entropy,
    fisher_times_change,
    gradient_times_change,
    logit_difference,
    next_token_cross_entropy,
    squared_error,
    substitution_effect,
    token_cross_entropy,
)
from paramattr.errors import DataError, ObjectiveError
from paramattr.integration.batches import Batch
from tests.models import other_weights

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*layout is not known.*"),
]


class Gated(nn.Module):
    """Takes keywords of several precisions, and something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Embedding(7, 3), nn.Linear(3, 2)

    def forward(self, ids, gain, mask=None, *, power=1):
        hidden = self.embed(ids).mean(1) * gain[:, None]
        if mask is not None:
            hidden = hidden * mask.any(1)[:, None]
        return SimpleNamespace(logits=self.layer(hidden) ** power)


@dataclass
class Item:
    """A batch as a dataclass."""

    ids: torch.Tensor
    gain: torch.Tensor
    mask: torch.Tensor
    power: int
    labels: torch.Tensor


def pair():
    torch.manual_seed(0)
    model = Gated().double().eval()
    ids = torch.randint(7, (4, 5))
    item = Item(ids, torch.rand(4).double(), ids > 1, 2, torch.tensor([0, 1, 1, 0]))
    return model, other_weights(model), item


def test_a_mapping_a_dataclass_and_positions_are_alike():
    model, baseline, item = pair()
    faig = FAIG(model, baseline, objective=cross_entropy)
    options = {"n_steps": 4}
    by_place = faig.attribute(
        (item.ids, item.gain), item.labels, {"mask": item.mask, "power": 2}, **options
    )
    mapping = dict(vars(item))
    inputs = {name: value for name, value in mapping.items() if name != "labels"}
    for found in (
        faig.attribute(mapping, **options),
        faig.attribute(inputs, item.labels, **options),
        faig.attribute(item, **options),
    ):
        for name, value in by_place.items():
            assert torch.equal(found[name], value)
    scores = [
        faig.score([batch], reducer="layer", **options).values
        for batch in (mapping, item, (inputs, item.labels))
    ]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_the_given_mapping_is_left_as_it_was():
    model, baseline, item = pair()
    mapping = dict(vars(item))
    FAIG(model, baseline, objective=cross_entropy).score([mapping], reducer="layer", n_steps=2)
    assert mapping.keys() == vars(item).keys()
    assert mapping["labels"] is item.labels


METHODS = {
    "faig": lambda m, b, loader: FAIG(m, b, objective=cross_entropy).score(
        loader, reducer="layer", n_steps=2
    ),
    "taylor": lambda m, b, loader: gradient_times_change(
        m, b, loader, reducer="layer", objective=cross_entropy
    ),
    "fisher": lambda m, b, loader: fisher_times_change(
        m, b, loader, reducer="layer", objective=cross_entropy
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_them(method):
    model, baseline, item = pair()
    scores = METHODS[method](model, baseline, [vars(item)])
    assert isinstance(scores, Scores)
    assert (scores.values > 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_several_conditions_and_reducers_in_one_pass(method):
    model, baseline, item = pair()
    one = {k: v[:2] if isinstance(v, torch.Tensor) else v for k, v in vars(item).items()}
    score = METHODS[method]
    both = score(model, baseline, {"all": [vars(item)], "two": [one, one]})
    assert list(both) == ["all", "two"]
    for name, loader in {"all": [vars(item)], "two": [one, one]}.items():
        assert torch.equal(both[name].values, score(model, baseline, loader).values)


def test_a_list_of_reducers_is_as_one_after_the_other():
    model, baseline, item = pair()
    faig = FAIG(model, baseline, objective=cross_entropy)
    found = faig.score({"a": [vars(item)]}, reducer=["layer", "output_channel"], n_steps=2)
    assert list(found["a"]) == ["layer", "output_channel"]
    for reducer, scores in found["a"].items():
        alone = faig.score([vars(item)], reducer=reducer, n_steps=2)
        for field in ("values", "signed", "standard_error"):
            assert torch.equal(getattr(scores, field), getattr(alone, field))
        assert scores.unassigned == alone.unassigned


def test_standard_errors_are_those_of_the_samples():
    model, baseline, item = pair()
    faig = FAIG(model, baseline, objective=cross_entropy)
    found = faig.score([vars(item)], reducer="layer", n_steps=3)
    each = faig.attribute(item, n_steps=3, per_sample=True)
    magnitudes = torch.stack(
        [
            sum(each[f"{layer}.{kind}"].abs().flatten(1).sum(1).double() for kind in kinds)
            for layer, kinds in {"embed": ["weight"], "layer": ["weight", "bias"]}.items()
        ]
    )
    expected = magnitudes.std(1, correction=1) / 4**0.5
    torch.testing.assert_close(found.standard_error, expected)
    torch.testing.assert_close(found.values, magnitudes.mean(1))


PADDED = [name for name in ("GPT-2", "BERT", "T5", "Llama, grouped queries") if name in PAIRS]


def padded(batch, more):
    """Put more padding behind the tokens, as a collator with a larger length would."""
    beyond = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: nn.functional.pad(value, (0, more), value=beyond[name]) if value.ndim == 2 else value
        for name, value in batch.items()
    }


@pytest.mark.parametrize("name", PADDED)
def test_more_padding_changes_no_score(name):
    torch.manual_seed(0)
    made = PAIRS[name]()
    target, baseline = made.target.double(), made.baseline.double()
    faig = FAIG(target, baseline, objective=made.objective)
    plain = faig.score([made.batch], reducer="layer", n_steps=2)
    more = faig.score([padded(made.batch, 5)], reducer="layer", n_steps=2)
    scale = float(plain.values.max())
    torch.testing.assert_close(more.values, plain.values, rtol=1e-6, atol=1e-9 * scale)


def test_an_encoder_decoder_gets_its_decoder_inputs_from_the_labels():
    torch.manual_seed(0)
    made = PAIRS["T5"]()
    batch = Batch.from_loader(made.batch, model=made.target)
    assert "labels" not in batch.keywords
    with torch.no_grad():
        own = made.target(**made.batch).logits  # it shifts the labels itself
        assert torch.equal(made.target(**batch.keywords).logits, own)


SIZES = {
    "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}  # fmt: skip
SHIFTING = {
    "Whisper": {"max_source_positions": 10, "max_target_positions": 16},
    "M2M100": {},
    "Blenderbot": {},
    "BlenderbotSmall": {},
    "NllbMoe": {"num_experts": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "Speech2Text": {"max_source_positions": 40, "max_target_positions": 20},
    "Bart": {},
    "MBart": {},
}
SOUNDS = {"Whisper": (3, 80, 20), "Speech2Text": (3, 20, 80)}


def encoder_decoder(name, **sizes):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **SHIFTING[name], **sizes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    labels = torch.randint(4, 40, (3, 5))
    labels[1, 3:] = -100
    if name in SOUNDS:
        return model, {"input_features": torch.randn(SOUNDS[name]), "labels": labels}
    return model, {"input_ids": torch.randint(4, 40, (3, 6)), "labels": labels}


@pytest.mark.parametrize("name", SHIFTING)
def test_every_encoder_decoder_is_given_what_it_makes_of_labels_itself(name):
    model, batch = encoder_decoder(name)
    keywords = Batch.from_loader(batch, model=model).keywords
    assert "labels" not in keywords
    with torch.no_grad():
        assert torch.equal(model(**keywords).logits, model(**batch).logits)


def test_decoder_inputs_that_are_given_are_taken():
    model, batch = encoder_decoder("M2M100")
    given = torch.randint(4, 40, (3, 5))
    found = Batch.from_loader({**batch, "decoder_input_ids": given}, model=model)
    assert torch.equal(found.keywords["decoder_input_ids"], given)


@pytest.mark.parametrize("name", ["M2M100", "Bart"])
@pytest.mark.parametrize("missing", ["decoder_start_token_id", "pad_token_id"])
def test_a_configuration_without_a_start_says_what_to_give(name, missing):
    model, batch = encoder_decoder(name)
    setattr(model.config, missing, None)
    faig = FAIG(model, tuned(model), objective=token_cross_entropy)
    with pytest.raises(DataError, match=rf"config.{missing} is None.*decoder_input_ids"):
        faig.score([batch], reducer="layer")


class Translator(nn.Module):
    """An encoder-decoder that takes labels and makes something of its own of them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(is_encoder_decoder=True)
        self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, input_ids, decoder_input_ids=None, labels=None):
        return SimpleNamespace(logits=self.out(self.embed(decoder_input_ids)))


def test_an_encoder_decoder_of_another_kind_says_what_to_give():
    torch.manual_seed(0)
    model, tokens_ = Translator().eval(), torch.randint(9, (2, 5))
    faig = FAIG(model, tuned(model), objective=token_cross_entropy)
    with pytest.raises(DataError, match=r"Translator.*gets no labels.*give 'decoder_input_ids'"):
        faig.attribute({"input_ids": tokens_, "labels": tokens_})
    faig.attribute({"input_ids": tokens_, "labels": tokens_, "decoder_input_ids": tokens_})
    with pytest.raises(DataError, match=r"Translator.*decoder_input_ids"):
        faig.score([{"input_ids": tokens_, "labels": tokens_}], reducer="layer")


class Lengths(nn.Module):
    """Sums as many steps of each sample as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, lengths):
        kept = [step[: int(n)].tanh().sum(0) for step, n in zip(x, lengths, strict=False)]
        return self.layer(torch.stack(kept))


class Opaque:
    """Something with a length that is no tensor."""

    def __len__(self) -> int:
        return 3


UNKNOWN_LENGTHS = {
    "list": [5, 3, 1],
    "tuple": (5, 3, 1),
    "array": np.array([5, 3, 1]),
    "range": range(3),
    "object": Opaque(),
    "in a mapping": {"of": [5, 3, 1]},
    "beside tensors": (torch.ones(3), [5, 3, 1]),
}


@pytest.mark.parametrize("kind", UNKNOWN_LENGTHS)
def test_what_has_the_batchs_length_and_is_no_tensor_is_not_guessed(kind):
    torch.manual_seed(0)
    model, value = Lengths().eval(), UNKNOWN_LENGTHS[kind]
    x, y = torch.randn(3, 6, 3), torch.randn(3, 2)
    faig = FAIG(model, tuned(model))
    both = r"the keyword 'lengths'.*of 3 entries.*one for each sample.*a tensor.*shared by all"
    for call in (
        lambda: faig.attribute({"x": x, "lengths": value}, y),
        lambda: faig.score([({"x": x, "lengths": value}, y)], reducer="layer"),
    ):
        with pytest.raises(DataError, match=both):
            call()
    for call in (
        lambda: faig.attribute(x, y, (value,)),
        lambda: faig.attribute(x, y, (1, value)),
    ):
        with pytest.raises(
            DataError, match=r"argument \d of additional_forward.*3 entries.*shared by all"
        ):
            call()


def test_targets_that_have_the_batchs_length_and_are_no_tensor_are_not_guessed():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2).eval(), torch.randn(3, 3)
    with pytest.raises(DataError, match=r"targets: found a list of 3 entries.*the objective"):
        FAIG(model, tuned(model)).score([(x, ["a", "b", "c"])], reducer="layer")


SHARED = {
    "another length": [5, 3],
    "a size": torch.Size((1, 2, 3)),
    "a text": "abc",
    "a mapping": {"a": 1, "b": 2, "c": 3},
    "of tensors": (torch.ones(3, 2), torch.ones(3, 1), torch.ones(3)),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_is_no_entry_per_sample_goes_to_every_sample(kind):
    batch = Batch.of(torch.ones(3, 2), None, {"more": SHARED[kind]})
    part = batch.part(1, 1).keywords["more"]
    if kind == "of tensors":
        assert [len(tensor) for tensor in part] == [1, 1, 1]
    else:
        assert part == SHARED[kind]


def test_a_list_that_is_shared_may_be_bound_into_the_models():
    torch.manual_seed(0)
    model, x, y = Lengths().eval(), torch.randn(3, 6, 3), torch.randn(3, 2)
    target = tuned(model)
    for one in (model, target):
        one.forward = partial(one.forward, lengths=[5, 3, 1])
    scores = FAIG(target, model).score([(x, y)], reducer="layer", n_steps=2)
    five = torch.tensor([5, 5, 5])  # each sample alone is the first of its batch
    for one in (model, target):
        del one.forward
    expected = FAIG(target, model).score([((x, five), y)], reducer="layer", n_steps=2)
    assert torch.equal(scores.values, expected.values)


def test_numbers_as_many_as_samples_are_arguments_of_their_own():
    batch = Batch.of(torch.ones(2, 2), None, (True, 0.5))
    assert batch.part(1, 1).extra == (True, 0.5)


def test_one_sample_has_one_reading():
    torch.manual_seed(0)
    model, x, y = Lengths().eval(), torch.randn(1, 6, 3), torch.randn(1, 2)
    faig = FAIG(model, tuned(model))
    listed = faig.attribute({"x": x, "lengths": [5]}, y)
    for name, value in faig.attribute({"x": x, "lengths": torch.tensor([5])}, y).items():
        assert torch.equal(listed[name], value)


class Weighted(nn.Module):
    """Weighs classes, as `weight` says, and divides by a temperature."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(4, classes)

    def forward(self, x, weight=1.0, temperature=1.0):
        return self.layer(x) * weight / temperature


CALLS = {
    "attribute": lambda faig, batch: faig.attribute(*batch, n_steps=2),
    "score": lambda faig, batch: faig.score([batch], reducer="layer", n_steps=2),
    "a condition": lambda faig, batch: faig.score({"a": [batch]}, reducer="layer", n_steps=2),
    "profile": lambda faig, batch: faig.path_profile([batch]),
    "exact": lambda faig, batch: substitution_effect(faig.model, faig.baseline, [batch]),
    "taylor": lambda faig, batch: gradient_times_change(
        faig.model, faig.baseline, [batch], reducer="layer"
    ),
    "fisher": lambda faig, batch: fisher_times_change(
        faig.model, faig.baseline, [batch], reducer="layer"
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_weights_of_as_many_classes_as_samples_are_not_cut(call):
    torch.manual_seed(0)
    model, x, y = Weighted().eval(), torch.randn(3, 4), torch.randn(3, 3)
    weight = torch.tensor([1.0, 2.0, 3.0])
    faig = FAIG(model, tuned(model))
    with pytest.raises(DataError, match=r"'weight'.*\(3,\).*one entry.*sample.*shared.*expand"):
        CALLS[call](faig, ({"x": x, "weight": weight}, y))
    CALLS[call](faig, ({"x": x, "weight": weight.expand(3, -1)}, y))  # the way out


def test_weights_of_classes_among_further_arguments_are_not_cut():
    torch.manual_seed(0)
    model, x, y = Weighted().eval(), torch.randn(3, 4), torch.randn(3, 3)
    faig, weight = FAIG(model, tuned(model)), torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match=r"further argument 0.*\(3,\).*shared"):
        faig.attribute(x, y, weight)
    with pytest.raises(DataError, match=r"input 1.*\(3,\).*shared"):
        faig.attribute((x, weight), y)


def test_a_weight_for_each_sample_is_cut():
    model, baseline, item = pair()  # its gain is (B,), a number per sample
    faig = FAIG(model, baseline, objective=cross_entropy)
    inputs = {name: value for name, value in vars(item).items() if name != "labels"}
    whole = faig.attribute(inputs, item.labels, per_sample=True, n_steps=2)
    for number in range(4):
        one = {
            name: value[number : number + 1] if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }
        alone = faig.attribute(one, item.labels[number : number + 1], n_steps=2)
        for name, value in alone.items():
            torch.testing.assert_close(whole[name][number], value)


class Counted(Weighted):
    """Counts its passes."""

    passes = 0

    def forward(self, x, weight=1.0, temperature=1.0):
        Counted.passes += 1
        return super().forward(x, weight, temperature)


def test_the_look_costs_an_ordinary_batch_no_pass():
    torch.manual_seed(0)
    model, x, y = Counted().eval(), torch.randn(3, 4), torch.randn(3, 3)
    faig, passes = FAIG(model, tuned(model)), []
    for more in ({}, {"weight": torch.ones(3, 1)}, {"temperature": torch.tensor(2.0)}):
        Counted.passes = 0
        faig.score([({"x": x, **more}, y)], reducer="layer", n_steps=2)
        passes.append(Counted.passes)
    # The first call looks at the baseline too; the others differ in nothing.
    assert passes[1] == passes[2] <= passes[0]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_tensor_without_dimensions_goes_to_every_sample(at_once):
    torch.manual_seed(0)
    model, x, y = Weighted().eval(), torch.randn(3, 4), torch.randn(3, 3)
    faig, two = FAIG(model, tuned(model)), torch.tensor(2.0)
    expected = faig.attribute({"x": x, "temperature": 2.0}, y)
    options = {"reducer": "scalar", "internal_batch_size": at_once}
    scores = faig.score([({"x": x, "temperature": 2.0}, y)], **options)
    for given in ({"x": x, "temperature": two}, {"temperature": two, "x": x}):
        found = faig.attribute(given, y)
        for name, value in expected.items():
            assert torch.equal(found[name], value)
        assert torch.equal(faig.score([(given, y)], **options).values, scores.values)
    further = faig.attribute(x, y, {"temperature": two})
    assert torch.equal(further["layer.weight"], expected["layer.weight"])


def test_targets_and_inputs_without_dimensions_are_refused():
    torch.manual_seed(0)
    model, x = Weighted().eval(), torch.randn(3, 4)
    faig = FAIG(model, tuned(model))
    with pytest.raises(DataError, match="the targets a single number"):
        faig.attribute(x, torch.tensor(1.0))
    with pytest.raises(DataError, match="expected a tensor with the batch first"):
        faig.attribute(torch.tensor(1.0), None)
    with pytest.raises(DataError, match="there is no input"):
        faig.attribute({"temperature": torch.tensor(1.0)}, None)


def test_a_keyword_that_the_model_does_not_take_is_named():
    model, baseline, item = pair()
    faig = FAIG(model, baseline, objective=cross_entropy)
    with pytest.raises(DataError, match=r"holds 'idx', which Gated.forward does not take.*'ids'"):
        faig.score([{**vars(item), "idx": torch.arange(4)}], reducer="layer")


def test_a_spent_generator_is_told_from_an_empty_loader():
    model, baseline, item = pair()
    faig = FAIG(model, baseline, objective=cross_entropy)
    spent = (batch for batch in [vars(item)])
    faig.score(spent, reducer="layer", n_steps=1)
    with pytest.raises(DataError, match="generator, which can be read only once"):
        faig.score(spent, reducer="layer", n_steps=1)
    with pytest.raises(DataError, match=r"gave no batch: expected at least one"):
        faig.score([], reducer="layer", n_steps=1)


def test_a_batch_in_the_place_of_conditions_is_refused():
    model, baseline, item = pair()
    with pytest.raises(DataError, match=r"entry 'ids' of the loader is a tensor.*\[batch\]"):
        FAIG(model, baseline, objective=cross_entropy).score(vars(item), reducer="layer")


def test_classes_under_the_squared_error_name_the_way_out():
    model, baseline, item = pair()
    with pytest.raises(ObjectiveError, match=r"use objective=paramattr\.cross_entropy"):
        FAIG(model, baseline).score([vars(item)], reducer="layer")


def test_an_output_without_logits_says_what_was_found():
    with pytest.raises(ObjectiveError, match=r"squared_error needs a tensor.*found a dict of out"):
        squared_error({"out": torch.ones(1)}, torch.ones(1))


def test_token_objectives_by_hand():
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    targets = torch.tensor([[1, 4, -100], [2, 0, 3]])
    log = logits.log_softmax(-1)
    expected = [
        -(log[0, 0, 1] + log[0, 1, 4]) / 2,
        -(log[1, 0, 2] + log[1, 1, 0] + log[1, 2, 3]) / 3,
    ]
    torch.testing.assert_close(token_cross_entropy(logits, targets), torch.stack(expected))
    shifted = [-log[0, 0, 4], -(log[1, 0, 0] + log[1, 1, 3]) / 2]
    torch.testing.assert_close(next_token_cross_entropy(logits, targets), torch.stack(shifted))
    last = [logits[0, 1, 1] - logits[0, 1, 0], logits[1, 2, 1] - logits[1, 2, 0]]
    torch.testing.assert_close(logit_difference(1, 0)(logits, targets), torch.stack(last))
    assert float(token_cross_entropy(logits[:1], torch.full((1, 3), -100))) == 0


def test_the_input_path_takes_conditions_too():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double().eval()
    x = torch.randn(2, 3, dtype=torch.float64)
    ig = InputPathIntegratedGradients(model)
    both = ig.score({"a": [(x, 0 * x)], "b": [(2 * x, x)]}, reducer="layer", n_steps=2)
    alone = ig.score([(2 * x, x)], reducer="layer", n_steps=2)
    assert torch.equal(both["b"].values, alone.values)


def test_tokens_of_the_made_up_batch_hold_padding():
    torch.manual_seed(0)
    batch = tokens()
    assert (batch["attention_mask"] == 0).any()
    assert tuned(nn.Linear(1, 1)).weight.shape == (1, 1)

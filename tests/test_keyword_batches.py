"""Batches as data loaders of the field give them: mappings, dataclasses, padding, generators."""

from dataclasses import dataclass
from types import SimpleNamespace

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

"""Captum's layer methods on models of tokens: its inputs are their embeddings."""

import pytest
import torch
from torch import nn

from benchmarks.model_pairs import PAIRS
from paramattr import squared_error
from paramattr.errors import DataError, ModelError
from paramattr.methods.captum import CAPTUM_METHODS, captum_scores

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*layout is not known.*", "ignore:.*full backward hook.*"),
]


class Bag(nn.Module):
    """Embeds tokens, mixes them, sums over the positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(6, 3), nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embed(ids)))).sum(1)


class FromEmbeddings(nn.Module):
    """The same from its embeddings on: what Captum sees."""

    def __init__(self, bag):
        super().__init__()
        self.mix, self.head = bag.mix, bag.head

    def forward(self, embedded):
        return self.head(torch.tanh(self.mix(embedded))).sum(1)


def bag():
    torch.manual_seed(0)
    model = Bag().double().eval()
    return model, torch.tensor([[1, 2, 5], [0, 3, 3]]), torch.randn(2, 1).double()


@pytest.mark.parametrize("method", CAPTUM_METHODS)
def test_tokens_are_as_their_embeddings(method):
    model, ids, truth = bag()
    with torch.no_grad():
        embedded = model.embed(ids)
    options = {"objective": squared_error, "n_steps": 4}
    found = captum_scores(method, model, ["mix"], [(ids, truth)], **options)
    plain = FromEmbeddings(model)
    expected = captum_scores(method, plain, ["mix"], [(embedded, truth)], **options)
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.signed, expected.signed)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("BERT", "bert.encoder.layer.0.intermediate.dense"),
        ("GPT-2", "transformer.h.0.mlp.c_fc"),
        ("Llama, grouped queries", "model.layers.0.mlp.up_proj"),
    ],
)
def test_models_of_transformers_with_mappings(name, layer):
    torch.manual_seed(0)
    pair = PAIRS[name]()
    scores = captum_scores(
        "layer-conductance",
        pair.target,
        [layer],
        [pair.batch],
        objective=pair.objective,
        n_steps=2,
    )
    assert len(scores) >= 24
    assert (scores.values > 0).all()


def test_an_embedding_that_cannot_be_found_is_asked_for():
    model, ids, truth = bag()
    model.other = nn.Embedding(2, 2).double()
    with pytest.raises(DataError, match=r"int64: expected .*embedding=.*'embed', 'other'"):
        captum_scores("layer-conductance", model, ["mix"], [(ids, truth)])
    with pytest.raises(ModelError, match="'nothing' is not one of the model's modules"):
        captum_scores("layer-conductance", model, ["mix"], [(ids, truth)], embedding="nothing")
    with pytest.raises(ModelError, match="runs 0 times"):
        captum_scores("layer-conductance", model, ["mix"], [(ids, truth)], embedding="other")
    found = captum_scores("layer-conductance", model, ["mix"], [(ids, truth)], embedding="embed")
    assert (found.values > 0).any()

"""Activation checkpointing: parts of the model run again in the backward pass."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from paramattr import FAIG, cross_entropy
from tests.models import pair_of


class Checkpointed(nn.Module):
    """A tied weight, a padding row and a buffer that counts calls."""

    def __init__(self, *, runs_again):
        super().__init__()
        self.runs_again = runs_again
        self.embedding = nn.Embedding(7, 5, padding_idx=0)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros(()))

    def part(self, layer, x, tokens):
        self.calls += 1
        return torch.tanh(layer(x)) + self.embedding(tokens).mean(1)

    def forward(self, tokens):
        x = self.embedding(tokens).mean(1)
        for layer in self.layers:
            if self.runs_again:
                x = checkpoint(self.part, layer, x, tokens, use_reentrant=False)
            else:
                x = self.part(layer, x, tokens)
        return self.head(x)


def pair(*, runs_again):
    return pair_of(lambda: Checkpointed(runs_again=runs_again), scale=0.05)


def faig(*, runs_again, **options):
    return FAIG(*pair(runs_again=runs_again), objective=cross_entropy, **options)


def data():
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 7, (3, 4), generator=draw)
    return tokens, torch.randint(0, 7, (3,), generator=draw)


@pytest.mark.parametrize("at_once", [None, 3])
def test_scores_are_those_of_the_model_without_it(at_once):
    options = {"reducer": ["layer", "scalar"], "n_steps": 2, "internal_batch_size": at_once}
    expected = faig(runs_again=False).score([data()], **options)
    target, baseline = pair(runs_again=True)
    state = target.state_dict(keep_vars=True)
    before = {name: tensor.clone() for name, tensor in state.items()}
    found = FAIG(target, baseline, objective=cross_entropy).score([data()], **options)
    for reducer in expected:
        torch.testing.assert_close(found[reducer].values, expected[reducer].values)
    for name, tensor in target.state_dict(keep_vars=True).items():
        assert tensor is state[name]
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("workers", [1, 2])
def test_attributions_are_those_of_the_model_without_it(workers):
    expected = faig(runs_again=False).attribute(*data(), n_steps=2)
    found = faig(runs_again=True, workers=workers).attribute(*data(), n_steps=2)
    torch.testing.assert_close(found, expected)

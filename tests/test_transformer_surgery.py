"""Edits and retraining of Hugging Face's models: ties, names and outputs stay as they were."""

import copy

import pytest
import torch

from paramattr import Selection, UnitIndex, inserted, retrain_only, substitute, substituted
from tests.transformer_models import BUILDS, Logits, inputs_of, shaken


@pytest.mark.parametrize("name", BUILDS)
def test_everything_is_the_baseline_and_nothing_the_target(name):
    target, baseline, x = Logits(name).double().eval(), shaken(name), inputs_of(name)
    index = UnitIndex.of(target, "layer")
    whole = Selection(index, torch.ones(len(index), dtype=torch.bool))
    with torch.no_grad():
        own, other = target(x), baseline(x)
        assert not torch.allclose(own, other)
        assert torch.equal(substitute(target, baseline, whole)(x), other)
        assert torch.equal(substitute(target, baseline, ~whole)(x), own)
        with substituted(target, baseline, whole):
            assert torch.equal(target(x), other)
        with inserted(target, baseline, ~whole):
            assert torch.equal(target(x), other)
        assert torch.equal(target(x), own)


@pytest.mark.parametrize("name", ["gpt2", "bert", "mixtral", "t5"])
def test_retraining_a_head_or_a_third_of_everything(name, tmp_path):
    model, x = BUILDS[name](), inputs_of(name)
    wrapped = Logits(name).eval()
    for reducer in ("attention_head", "scalar"):
        index = UnitIndex.of(model, reducer)
        selection = Selection(index, torch.arange(len(index)) % 3 == 0)
        trainable = retrain_only(model, selection)
        wrapped.model = model
        expected = wrapped(x).detach()
        wrapped.model = trainable
        assert torch.equal(wrapped(x), expected)
        assert list(trainable.state_dict()) == list(model.state_dict())
        before = copy.deepcopy(trainable.state_dict())
        optimiser = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.1)
        wrapped(x).square().mean().backward()
        optimiser.step()
        after = trainable.state_dict()
        for key in index.shapes:
            mask = selection.mask(key)
            assert torch.equal(after[key][~mask], before[key][~mask])
        assert any(not torch.equal(after[key], before[key]) for key in before)
        torch.save(trainable, tmp_path / "whole")
        wrapped.model = torch.load(tmp_path / "whole", weights_only=False)
        loaded = wrapped(x)
        wrapped.model = trainable
        assert torch.equal(loaded, wrapped(x))

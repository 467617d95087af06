"""Comparison, prediction, retraining and editing on models of tokens and with batch norm."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.model_pairs import PAIRS
from paramattr import (
    FAIG,
    OverlapClassifier,
    Selection,
    absolute_change,
    compare,
    contrast,
    inserted,
    masking_curve,
    modulate,
    random_scores,
    retrain_only,
    substituted,
    weight_magnitude,
)
from paramattr.objectives import prediction
from paramattr.wrappers import unwrapped

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(transformers|peft|torch)"),
]
NAMES = ("convolutions, batch norm", "BERT", "GPT-2", "Mixtral, frozen router")


def made(name):
    """Give a pair, and a measure of it: the objective of a model, per sample."""
    torch.manual_seed(0)
    pair = PAIRS[name]()
    batch = pair.batch

    def measure(model):
        with torch.no_grad():
            if not isinstance(batch, dict):
                return pair.objective(model(batch[0]), batch[1])
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            return pair.objective(model(**inputs), batch["labels"])

    return pair, measure


@pytest.mark.parametrize("name", NAMES)
def test_a_comparison_of_methods(name):
    pair, measure = made(name)
    faig = FAIG(pair.target, pair.baseline, objective=pair.objective)
    before = copy.deepcopy(pair.target.state_dict())
    comparison = compare(
        pair.target,
        pair.baseline,
        {
            "faig": faig.score([pair.batch], reducer="layer", n_steps=2),
            "change": absolute_change(pair.target, pair.baseline, reducer="layer"),
            "weight": weight_magnitude(pair.target, reducer="layer"),
        },
        {"all": measure},
        fractions=(0, 0.5, 1),
    )
    curve = comparison.curves["faig", "all", "all"]
    torch.testing.assert_close(curve.values[0], measure(pair.target).double())
    # All units together are the whole model: what is left is the baseline.
    assert torch.equal(curve.values[-1], measure(pair.baseline).double())
    for key, value in pair.target.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_of_samples(name):
    pair, _ = made(name)
    faig = FAIG(pair.target, pair.baseline, objective=pair.objective)
    sizes = range(len(next(iter(tensors(pair.batch)))))
    samples = [cut(pair.batch, number) for number in sizes]
    one, two = (faig.score([sample], reducer="layer", n_steps=2) for sample in samples[:2])
    units = {"one": contrast(one, two).top(count=3), "two": contrast(two, one).top(count=3)}
    classifier = OverlapClassifier(
        units, lambda sample: faig.score([sample], reducer="layer", n_steps=2)
    )
    scores = classifier.scores(samples)
    assert scores["one"].shape == (len(samples),)


def tensors(batch):
    return batch.values() if isinstance(batch, dict) else batch


def cut(batch, number):
    part = slice(number, number + 1)
    if isinstance(batch, dict):
        return {key: value[part] for key, value in batch.items()}
    return tuple(value[part] for value in batch)


@pytest.mark.parametrize("name", NAMES)
def test_in_place_edits_restore_everything(name):
    pair, measure = made(name)
    selection = random_scores(pair.target, reducer="layer").top(fraction=0.5)
    before = copy.deepcopy(dict(pair.target.named_buffers()) | pair.target.state_dict())
    for edit in (substituted, inserted):
        with edit(pair.target, pair.baseline, selection) as edited:
            assert not torch.equal(measure(edited), measure(pair.baseline) + 1)
        for key, value in before.items():
            assert torch.equal(dict(pair.target.named_buffers()).get(key, value), value)
    half = modulate(pair.target, pair.baseline, selection, 0.5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(measure(half), measure(pair.target), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_retraining_moves_what_is_selected_alone(name):
    pair, _ = made(name)
    selection = random_scores(pair.baseline, reducer="layer", seed=1).top(fraction=0.3)
    trainable = retrain_only(pair.baseline, selection).train()
    optimiser = torch.optim.SGD(trainable.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        output = run(trainable, pair.batch)
        pair.objective(output, labels(pair.batch)).sum().backward()
        optimiser.step()
    state, plain = trainable.state_dict(), pair.baseline.state_dict()
    moved = 0
    for key, value in plain.items():
        mask = torch.zeros(value.shape, dtype=torch.bool)
        if key in selection.index.shapes:
            mask = selection.mask(key)
        assert torch.equal(state[key][~mask], value[~mask])  # statistics too, in training mode
        moved += int((state[key][mask] != value[mask]).sum())
    assert moved


def run(model, batch):
    if isinstance(batch, dict):
        return model(**{key: value for key, value in batch.items() if key != "labels"})
    return model(batch[0])


def labels(batch):
    return batch["labels"] if isinstance(batch, dict) else batch[1]


def test_a_masking_curve_of_a_compiled_model():
    torch.manual_seed(0)
    pair = PAIRS["torch.compile"]()
    ranking = random_scores(pair.target, reducer="layer")
    inputs, classes = pair.batch

    def measure(model):
        with torch.no_grad():
            return pair.objective(prediction(model(inputs)), classes)

    curve = masking_curve(pair.target, pair.baseline, ranking, measure, fractions=(0, 1))
    assert torch.equal(curve.values[1], measure(pair.baseline).double())
    assert isinstance(unwrapped(pair.target), nn.Sequential)
    assert len(Selection(ranking.index, torch.ones(len(ranking), dtype=torch.bool))) == len(ranking)

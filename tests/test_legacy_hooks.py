"""Weights that hooks of torch assemble: legacy weight norm, legacy spectral norm, pruning."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from paramattr import FAIG, UnitIndex, modulate, retrain_only, substitute
from paramattr.units.selection import Selection
from tests.tiny import seeded

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
]


def pruned(layer: nn.Module) -> nn.Module:
    mask = torch.arange(layer.weight.numel()).reshape(layer.weight.shape) % 3 > 0
    return prune.custom_from_mask(layer, "weight", mask)


HOOKS = {"weight_norm": weight_norm, "spectral_norm": spectral_norm, "pruned": pruned}
X, Y = seeded(lambda: torch.randn(5, 4)), seeded(lambda: torch.randn(5, 2), 1)


def pair(hook):
    """Make two models, which have run with autograd: their weights are no leaves."""

    def build():
        return nn.Sequential(HOOKS[hook](nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 2)).eval()

    target, baseline = seeded(build), seeded(build)
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter.add_(seeded(lambda like=parameter: 0.1 * torch.randn_like(like), 2))
    for model in (target, baseline):
        model(X)
    return target, baseline


def chosen(model, reducer="layer", units=None):
    index = UnitIndex.of(model, reducer)
    units = range(len(index)) if units is None else units
    return Selection(index, torch.tensor([n in units for n in range(len(index))]))


@pytest.mark.parametrize("reducer", ["kernel", "output_channel", "input_channel"])
@pytest.mark.parametrize("layer", [nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(2, 6, 3)])
def test_legacy_weight_norm_has_the_units_of_the_parametrized_one(layer, reducer):
    def build(norm):
        made = type(layer)(2, 6, 3)
        return nn.Sequential(norm(made), nn.ReLU(), nn.Conv2d(6, 1, 3))

    legacy, modern = build(weight_norm), build(parametrizations.weight_norm)
    found, expected = (UnitIndex.of(model, reducer) for model in (legacy, modern))
    assert found.groups == expected.groups
    for own, other in (("weight_g", "original0"), ("weight_v", "original1")):
        name = f"0.parametrizations.weight.{other}"
        assert (f"0.{own}" in found.labels) == (name in expected.labels)
        if name in expected.labels:
            assert torch.equal(found.labels[f"0.{own}"], expected.labels[name])


@pytest.mark.parametrize("dim", [0, 1, None])
def test_the_lengths_of_legacy_weight_norm_belong_to_their_side(dim):
    model = nn.Sequential(weight_norm(nn.Linear(4, 4), dim=dim))
    sides = {side: UnitIndex.of(model, f"{side}_channel") for side in ("output", "input")}
    for number, index in enumerate(sides.values()):
        assert index.groups == {"0.weight": (0, (4,))}
        assert ("0.weight_g" in index.labels) == (dim == number)


@pytest.mark.parametrize("hook", ["spectral_norm", "pruned"])
def test_other_legacy_hooks_have_the_units_of_the_plain_weight(hook):
    model, _ = pair(hook)
    assert list(UnitIndex.of(model, "output_channel").groups) == ["0.weight", "2.weight"]


@pytest.mark.parametrize("hook", HOOKS)
def test_everything_substituted_is_the_baseline(hook):
    target, baseline = pair(hook)
    edited = substitute(target, baseline, chosen(target))
    assert torch.equal(edited(X), baseline(X))
    assert not torch.equal(edited(X), target(X))
    assert torch.equal(edited[0].weight, baseline[0].weight)


@pytest.mark.parametrize("hook", HOOKS)
def test_an_edited_copy_shows_its_weight_before_it_runs(hook):
    target, baseline = pair(hook)
    edited = modulate(target, baseline, chosen(target), 0.0)
    torch.testing.assert_close(edited[0].weight, baseline[0].weight)


@pytest.mark.parametrize("hook", HOOKS)
def test_only_the_selected_entries_are_retrained(hook):
    target, _ = pair(hook)
    selection = chosen(target, "output_channel", [1])
    trainable = retrain_only(target, selection)
    assert torch.equal(trainable(X), target(X))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    optimiser = torch.optim.AdamW(trainable.parameters(), lr=0.1)
    (trainable(X) - Y).square().sum().backward()
    optimiser.step()
    after = trainable.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    for name in moved:
        mask = selection.mask(name)
        assert torch.equal(after[name][~mask], before[name][~mask])
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("hook", HOOKS)
def test_a_call_leaves_the_assembled_weight_as_it_was(hook):
    target, baseline = pair(hook)
    held = [(model[0].weight, model[0].weight.detach().clone()) for model in (target, baseline)]
    FAIG(target, baseline).score([(X, Y)], reducer="layer", n_steps=2)
    for model, (weight, values) in zip((target, baseline), held, strict=True):
        assert model[0].weight is weight
        assert torch.equal(weight, values)


@pytest.mark.parametrize("hook", HOOKS)
def test_workers_share_them(hook):
    target, baseline = pair(hook)
    one, two = (
        FAIG(target, baseline, workers=workers).score([(X, Y)], reducer="layer", n_steps=2).values
        for workers in (1, 2)
    )
    assert torch.equal(one, two)

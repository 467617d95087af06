import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from paramattr import (
    Selection,
    UnitIndex,
    inserted,
    load_state_dict,
    modulate,
    random_scores,
    retrain_only,
    save_state_dict,
    substitute,
    substituted,
)
from paramattr.errors import ModelError, UnitError
from paramattr.parameters import named_parameters
from tests.tiny import (
    MODELS,
    attention,
    convnet,
    indexes,
    inputs_for,
    moved,
    recurrent,
    seeded,
    selections_of,
    tied,
    transposed,
)

SETTINGS = settings(max_examples=10)
OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p),
}


@st.composite
def cases(draw, builds=tuple(MODELS), *, least: int = 0):
    """Draw a model, one moved away from it, and some of its units, of any reducer."""
    build = draw(st.sampled_from(builds))
    selection = draw(selections_of(draw(indexes((build,))), least=least))
    return build, build(), moved(build(), buffers=True), selection


def same(a: Tensor, b: Tensor) -> bool:
    """Compare bits, so that a negative zero is not a zero."""
    return a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def same_state(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(same(one[name], two[name]) for name in one)


def everything(selection: Selection) -> Selection:
    return selection | ~selection


def all_of(model: nn.Module, reducer: str = "scalar") -> Selection:
    index = UnitIndex.of(model, reducer)
    return Selection(index, torch.ones(len(index), dtype=torch.bool))


def every_third(model: nn.Module) -> Selection:
    index = UnitIndex.of(model, "scalar")
    return Selection(index, torch.arange(len(index)) % 3 == 0)


@SETTINGS
@given(cases())
def test_substituting_nothing_gives_the_target(case):
    _, target, baseline, selection = case
    nothing = selection - selection
    assert same_state(substitute(target, baseline, nothing), target)


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("reducer", ["scalar", "layer"])
def test_substituting_everything_gives_the_baseline_buffers_included(build, reducer):
    target, baseline, x = build(), moved(build(), buffers=True), inputs_for(build)
    everyone = all_of(target, reducer)
    edited = substitute(target, baseline, everyone)
    assert same_state(edited, baseline)
    assert same(edited(x).detach(), baseline(x).detach())
    with substituted(target, baseline, everyone):
        assert same_state(target, baseline)
    assert same_state(target, build())
    with inserted(target, baseline, ~everyone):
        assert same_state(target, baseline)
    with inserted(target, baseline, everyone):
        assert same_state(target, build())
    assert same_state(target, build())


@SETTINGS
@given(cases())
def test_substitute_takes_each_entry_from_its_side(case):
    _, target, baseline, selection = case
    edited = named_parameters(substitute(target, baseline.state_dict(), selection))
    own, other = named_parameters(target), named_parameters(baseline)
    for name, value in edited.items():
        mask = selection.mask(name)
        assert same(value[mask], other[name][mask])
        assert same(value[~mask], own[name][~mask])


@SETTINGS
@given(cases())
def test_modulate_ends_at_substitute_and_target(case):
    _, target, baseline, selection = case
    assert same_state(modulate(target, baseline, selection, 1), target)
    gone = substitute(target, baseline, selection)
    assert same_state(modulate(target, baseline, selection, 0.0), gone)


@SETTINGS
@given(cases(), st.floats(-1, 2))
def test_modulate_blends_the_selection_and_nothing_else(case, strength):
    _, target, baseline, selection = case
    own, other = named_parameters(target), named_parameters(baseline)
    halves = named_parameters(modulate(target, baseline, selection, 0.5))
    if strength > 1:  # its statistics are refused where a variance becomes negative
        baseline.load_state_dict(dict(target.named_buffers()), strict=False)
    blends = named_parameters(modulate(target, baseline, selection, strength))
    for name in own:
        mask = selection.mask(name)
        mean = (own[name] + other[name]) / 2
        blend = strength * own[name] + (1 - strength) * other[name]
        torch.testing.assert_close(halves[name][mask], mean[mask], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(blends[name][mask], blend[mask], rtol=1e-5, atol=1e-5)
        assert same(halves[name][~mask], own[name][~mask])
        assert same(blends[name][~mask], own[name][~mask])


@SETTINGS
@given(cases(least=1))
def test_surgery_leaves_its_inputs_alone(case):
    _, target, baseline, selection = case
    before = [copy.deepcopy(m) for m in (target, baseline)]
    chosen = selection.chosen.clone()
    edited = [
        substitute(target, baseline, selection),
        modulate(target, baseline, selection, 0.5),
        retrain_only(target, selection),
    ]
    for model in edited:
        assert isinstance(model, type(target))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(9)  # nothing is shared with the inputs
    assert same_state(target, before[0])
    assert same_state(baseline, before[1])
    assert all(p.requires_grad and p.grad is None for p in target.parameters())
    assert torch.equal(selection.chosen, chosen)


def test_ties_and_modes_survive():
    for edited in (
        substitute(tied(), moved(tied()), all_of(tied())),
        retrain_only(tied(), all_of(tied())),
    ):
        assert torch.equal(edited.first.weight, edited.second.weight)
        assert edited.twice is edited.alias
        assert not edited.training
        edited.train()
    assert retrain_only(convnet().train(), all_of(convnet())).norm.training


# Retraining.


def train(model: nn.Module, x: Tensor, optimiser, steps: int = 20) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("name", OPTIMISERS)
@settings(max_examples=3)
@given(case=cases(least=1))
def test_every_other_entry_stays_the_same_to_the_bit(name, case):
    build, model, _, selection = case
    model, x = model.double(), inputs_for(build).double()
    (model(x) - 1).square().mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    before = copy.deepcopy(model).state_dict()
    trainable = retrain_only(model, selection)
    assert torch.equal(trainable(x), model(x))
    optimiser = OPTIMISERS[name](trainable.parameters())
    train(trainable, x, optimiser)
    after = trainable.state_dict()
    for key, buffer in model.named_buffers():
        assert same(after[key], buffer)
    for key in selection.index.shapes:
        mask = selection.mask(key)
        assert same(after[key][~mask], before[key][~mask])
        reached = mask & (gradients[key] != 0)
        assert (after[key][reached] != before[key][reached]).all()
    # The optimiser keeps its moments for the selected entries alone.
    entries = sum(int(selection.mask(key).sum()) for key in selection.index.shapes)
    states = [s for group in optimiser.state.values() for s in group.values() if s.ndim]
    moments = 1 if "sgd" in name or name == "nesterov" else 2
    assert sum(s.numel() for s in states) == moments * entries
    assert sum(p.numel() for p in trainable.parameters() if p.requires_grad) == entries


def test_retraining_everything_is_training():
    model, x = convnet().double(), inputs_for(convnet).double()
    trainable = retrain_only(model, all_of(model))
    train(trainable, x, OPTIMISERS["sgd"](trainable.parameters()))
    plain = copy.deepcopy(model)
    train(plain, x, OPTIMISERS["sgd"](plain.parameters()))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trainable.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_weight_decay_on_the_whole_model_would_move_the_rest():
    """The counter-property: zeroing the other gradients is not enough."""
    model, x = convnet(), inputs_for(convnet)
    mask = every_third(model).mask("fc.weight")
    before = model.fc.weight.detach().clone()
    model.fc.weight.register_hook(lambda gradient: gradient * mask)
    train(model, x, torch.optim.AdamW(model.parameters()), steps=2)
    assert not torch.equal(model.fc.weight[~mask], before[~mask])


@pytest.mark.parametrize("build", MODELS)
def test_state_dict_has_the_plain_names_and_loads_into_the_plain_model(build, tmp_path):
    model, x = build(), inputs_for(build)
    trainable = retrain_only(model, every_third(model))
    train(trainable, x, OPTIMISERS["adam"](trainable.parameters()), steps=3)
    state = trainable.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(state[n].shape == v.shape for n, v in model.state_dict().items())
    assert not any(v.requires_grad for v in state.values())
    save_state_dict(tmp_path / "trained", state)
    plain = build()
    plain.load_state_dict(load_state_dict(tmp_path / "trained"))
    assert torch.equal(plain(x), trainable(x))
    assert not torch.equal(plain(x), model(x))


@pytest.mark.parametrize("build", MODELS)
def test_a_plain_state_dict_loads(build):
    model, other, x = build(), moved(build()), inputs_for(build)
    trainable = retrain_only(model, every_third(model))
    assert trainable.load_state_dict(other.state_dict()) == ([], [])
    assert torch.equal(trainable(x), other(x))
    train(trainable, x, OPTIMISERS["sgd"](trainable.parameters()), steps=2)
    own, after = other.state_dict(), trainable.state_dict()
    for name in named_parameters(model):
        mask = every_third(model).mask(name)
        assert same(after[name][~mask], own[name][~mask])


def test_as_a_part_of_another_model_the_names_are_plain_too():
    model, other = convnet(), moved(convnet())
    whole = nn.Sequential(retrain_only(model, every_third(model)), nn.Identity())
    plain = nn.Sequential(other, nn.Identity())
    assert set(whole.state_dict()) == set(plain.state_dict())
    whole.load_state_dict(plain.state_dict())
    assert torch.equal(whole(inputs_for(convnet)), plain(inputs_for(convnet)))


def test_a_state_dict_that_misses_a_parameter_is_refused():
    trainable = retrain_only(convnet(), every_third(convnet()))
    state = trainable.state_dict()
    del state["fc.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*fc"):
        trainable.load_state_dict(state)


@pytest.mark.parametrize(("build", "name"), list(itertools.product(MODELS, ["sgd", "adamw"])))
def test_saving_half_way_resumes_to_the_same_result(build, name, tmp_path):
    x = inputs_for(build)

    def fresh():
        trainable = retrain_only(build(), every_third(build()))
        return trainable, OPTIMISERS[name](trainable.parameters())

    straight, optimiser = fresh()
    train(straight, x, optimiser, 3)
    torch.save([straight.state_dict(), optimiser.state_dict()], tmp_path / "half")
    train(straight, x, optimiser, 3)
    resumed, optimiser = fresh()
    halves = torch.load(tmp_path / "half", weights_only=True)
    resumed.load_state_dict(halves[0])
    optimiser.load_state_dict(halves[1])
    train(resumed, x, optimiser, 3)
    assert same_state(straight, resumed)


@pytest.mark.parametrize("build", [convnet, tied, recurrent])
def test_a_deep_copy_trains_on_its_own(build):
    model, x = build(), inputs_for(build)
    trainable = retrain_only(model, every_third(model))
    train(trainable, x, OPTIMISERS["sgd"](trainable.parameters()), 2)
    twin = copy.deepcopy(trainable)
    frozen = copy.deepcopy(trainable.state_dict())
    train(twin, x, OPTIMISERS["sgd"](twin.parameters()), 3)
    assert all(same(value, frozen[name]) for name, value in trainable.state_dict().items())
    after = twin.state_dict()
    for name in named_parameters(model):
        mask = every_third(model).mask(name)
        assert same(after[name][~mask], frozen[name][~mask])
    assert any(not same(value, frozen[name]) for name, value in after.items())
    train(trainable, x, OPTIMISERS["sgd"](trainable.parameters()), 3)
    assert same_state(twin, trainable)


def test_tied_weights_stay_tied_and_get_both_gradients():
    model, x = tied().double(), inputs_for(tied).double()
    trainable = retrain_only(model, every_third(model))
    mask = every_third(model).mask("first.weight")
    model(x).square().sum().backward()
    trainable(x).square().sum().backward()
    values = trainable.first.parametrizations.weight[0].values
    torch.testing.assert_close(values.grad, model.first.weight.grad[mask])
    train(trainable, x, OPTIMISERS["adamw"](trainable.parameters()), 3)
    assert torch.equal(trainable.first.weight, trainable.second.weight)


@pytest.mark.parametrize("build", [attention, recurrent, transposed])
def test_gradients_of_the_entries_are_those_of_the_plain_model(build):
    model, x = build().double(), inputs_for(build).double()
    selection = every_third(model)
    trainable = retrain_only(model, selection)
    model(x).square().sum().backward()
    trainable(x).square().sum().backward()
    found = {n: p.grad for n, p in trainable.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        own = found.pop(f"{path}.parametrizations.{attribute}.0.values")
        torch.testing.assert_close(own, parameter.grad[selection.mask(name)])
    assert not found


def test_a_layer_without_a_chosen_entry_is_a_plain_frozen_layer():
    model = convnet()
    index = UnitIndex.of(model, "layer")
    trainable = retrain_only(model, Selection(index, torch.tensor([True, False, False, False])))
    assert type(trainable.fc) is nn.Linear
    assert [n for n, p in trainable.named_parameters() if p.requires_grad] == [
        "head.parametrizations.weight.0.values",
        "head.parametrizations.bias.0.values",
    ]


def test_an_empty_selection_cannot_be_retrained():
    selection = ~all_of(convnet())
    with pytest.raises(UnitError, match=r"selection is empty.*nothing to train"):
        retrain_only(convnet(), selection)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m, s: substitute(m, moved(m), s),
        lambda m, s: modulate(m, moved(m), s, 0.5),
        retrain_only,
    ],
)
def test_a_selection_of_another_model_is_refused(edit):
    with pytest.raises(UnitError, match=r"of another model: parameter 'head.weight' is \(3, 2"):
        edit(convnet(), all_of(tied()))
    with pytest.raises(UnitError, match=r"selection is a list: expected a Selection"):
        edit(convnet(), [True])


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None])
def test_strength_is_a_finite_number(strength):
    with pytest.raises(ModelError, match=rf"strength is {strength!r}: expected a finite number"):
        modulate(convnet(), moved(convnet()), all_of(convnet()), strength)


def test_another_architecture_is_refused():
    with pytest.raises(ModelError, match="missing in the baseline"):
        substitute(convnet(), tied(), all_of(convnet()))


@pytest.mark.parametrize("build", MODELS)
def test_the_whole_module_is_saved_and_trains_on(build, tmp_path):
    model, x = build(), inputs_for(build)
    trainable = retrain_only(model, every_third(model))
    train(trainable, x, OPTIMISERS["sgd"](trainable.parameters()), 2)
    torch.save(trainable, tmp_path / "whole")
    loaded = torch.load(tmp_path / "whole", weights_only=False)
    assert same_state(loaded, trainable)
    for twin in (trainable, loaded):
        train(twin, x, OPTIMISERS["sgd"](twin.parameters()), 3)
    assert same_state(loaded, trainable)
    assert loaded.load_state_dict(moved(model).state_dict()) == ([], [])
    assert torch.equal(loaded(x), moved(model)(x))
    torch.save(copy.deepcopy(loaded), tmp_path / "again")


def test_a_parametrised_model_is_edited_and_retrained_and_left_alone():
    def build(seed: int) -> nn.Module:
        layers = (weight_norm(nn.Linear(3, 3)), nn.Tanh(), spectral_norm(nn.Linear(3, 2)))
        return seeded(lambda: nn.Sequential(*layers), seed).eval()

    target = build(0)
    baseline = moved(target, buffers=True).eval()
    x = inputs_for(tied)
    edited = substitute(target, baseline, all_of(target, "layer"))
    assert torch.equal(edited(x), baseline(x))
    assert not torch.equal(edited(x), target(x))
    half = modulate(target, baseline, all_of(target, "layer"), 0.5)
    assert not torch.equal(half(x), target(x))
    before = target(x).detach()
    trainable = retrain_only(target, all_of(target))
    assert torch.equal(trainable(x), before)
    assert list(trainable.state_dict()) == list(target.state_dict())
    train(trainable, x, OPTIMISERS["sgd"](trainable.parameters()), 3)
    assert torch.equal(target(x), before)  # the copy shares no class with it
    target.load_state_dict(trainable.state_dict())
    torch.testing.assert_close(target(x), trainable(x))


def test_the_state_dict_keeps_the_plain_models_order():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    selection = random_scores(model, reducer="scalar").top(fraction=1.0)
    assert list(retrain_only(model, selection).state_dict()) == list(model.state_dict())

"""The substitution effect against copies of the target with one unit exchanged."""

import copy

import pytest
import torch
from torch import nn

from paramattr import FAIG, Selection, contrast, random_scores, squared_error, substitution_effect
from paramattr.errors import DataError, ModelError, UnitError
from tests.models import ZOO, other_weights
from tests.reference.substitution import substitution_effects
from tests.tiny import INPUT_SHAPES, convnet, moved, seeded, tied

pytestmark = pytest.mark.usefixtures("one_thread")


def loss(model, sample):
    x, y = sample
    with torch.no_grad():
        return squared_error(model(x), y)[0]


def case(build, samples=4):
    target = build().double()
    baseline = moved(target, buffers=build is convnet)
    x = seeded(lambda: torch.randn(samples, *INPUT_SHAPES[build][1:]), 7).double()
    with torch.no_grad():
        y = torch.zeros_like(target(x))
    return target, baseline, x, y


@pytest.mark.parametrize(
    ("build", "reducer"),
    [(convnet, "kernel"), (convnet, "layer"), (convnet, "output_channel"), (tied, "layer")],
)
def test_effects_are_those_of_models_with_one_unit_exchanged(build, reducer):
    target, baseline, x, y = case(build)
    batches = list(zip(x.split((3, 1)), y.split((3, 1)), strict=True))
    found = substitution_effect(target, baseline, batches, reducer)
    ones = list(zip(x.split(1), y.split(1), strict=True))
    effects = substitution_effects(target, baseline, found.index, loss, ones)
    torch.testing.assert_close(found.signed, effects.mean(0))
    torch.testing.assert_close(found.values, effects.abs().mean(0))
    error = effects.abs().std(0) / len(ones) ** 0.5
    torch.testing.assert_close(found.standard_error, error, rtol=1e-6, atol=1e-9)
    assert found.samples == 4
    assert found.values.min() > 0


def test_two_units_do_not_add_up_and_one_unit_is_everything():
    target, baseline, x, y = case(tied)
    found = substitution_effect(target, baseline, [(x, y)], "layer")
    with torch.no_grad():
        change = (squared_error(baseline(x), y) - squared_error(target(x), y)).mean()
    assert not torch.allclose(found.signed.sum(), change, rtol=1e-3)

    def all_in_one(name, parameter, module):
        from paramattr import Units

        return Units("all", (1,), torch.zeros([1] * parameter.ndim, dtype=torch.int64))

    whole = substitution_effect(target, baseline, [(x, y)], all_in_one)
    torch.testing.assert_close(whole.signed, change[None])


def test_mappings_go_to_the_model_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, values):
            return self.inner(values)

    target = seeded(Named).double().eval()
    baseline = moved(target)
    x, y = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    found = substitution_effect(target, baseline, [{"values": x, "labels": y}], "scalar")
    plain = substitution_effect(target, baseline, [(x, y)], "scalar")
    assert torch.equal(found.signed, plain.signed)


def test_wrapped_models_and_state_dicts_are_their_models():
    target, baseline, x, y = case(convnet)
    plain = substitution_effect(target, baseline, [(x, y)])
    for pair in (
        (nn.DataParallel(target), baseline),
        (torch.compile(target, backend="eager"), torch.compile(baseline, backend="eager")),
        (target, baseline.state_dict()),
    ):
        assert torch.equal(substitution_effect(*pair, [(x, y)]).signed, plain.signed)


def test_conditions_and_reducers_come_together_and_are_paired(tmp_path):
    target, baseline, x, y = case(convnet)
    loaders = {"a": [(x, y)], "b": [(x + 0.1, y)]}
    file = tmp_path / "kept"
    both = substitution_effect(target, baseline, loaders, ["layer", "kernel"], checkpoint=file)
    alone = substitution_effect(target, baseline, loaders["b"], "kernel", internal_batch_size=2)
    torch.testing.assert_close(both["b"]["kernel"].signed, alone.signed)
    paired = contrast(both["a"]["kernel"], both["b"]["kernel"]).standard_error
    unpaired = torch.hypot(*(both[c]["kernel"].standard_error for c in "ab"))
    assert paired.sum() < unpaired.sum()
    again = substitution_effect(target, baseline, loaders, ["layer", "kernel"], checkpoint=file)
    assert torch.equal(again["a"]["layer"].signed, both["a"]["layer"].signed)


def test_units_that_did_not_change_are_not_run():
    target, _, x, y = case(convnet)
    baseline = copy.deepcopy(target)
    with torch.no_grad():
        baseline.head.weight[1, 0] += 1
    rows = []

    def counting(output, targets):
        rows.append(len(output))
        return squared_error(output, targets)

    found = substitution_effect(target, baseline, [(x, y)], "kernel", objective=counting)
    assert found.values.count_nonzero() == 1
    assert rows == [4, 4]


def test_a_budget_exchanges_the_best_candidates_and_says_so():
    target, baseline, x, y = case(convnet)
    data = [(x, y)]
    every = substitution_effect(target, baseline, data, "kernel")
    ranking = FAIG(target, baseline).score(data, reducer="kernel")
    top = ranking.top(count=5)
    options = [{"candidates": top}, {"candidates": ranking, "budget": 5}]
    for option in options:
        with pytest.warns(UserWarning, match="5 of 12 units are exchanged: the other 7 have"):
            found = substitution_effect(target, baseline, data, "kernel", **option)
        assert torch.equal(found.signed[top.chosen], every.signed[top.chosen])
        assert (found.values[~top.chosen] == 0).all()
        assert found.signed[~top.chosen].isnan().all()
        assert found.standard_error[~top.chosen].isnan().all()
        assert not found.standard_error[top.chosen].isnan().any()
    with pytest.warns(UserWarning, match="3 of 12"):
        found = substitution_effect(target, baseline, {"a": data, "b": data}, "kernel", budget=3)
    assert found["a"].values.count_nonzero() == 3
    difference = contrast(found["a"], found["b"])
    assert int(difference.standard_error.isnan().sum()) == 9  # what was not tried is not known
    assert len(difference.significant()) == 0
    with pytest.warns(UserWarning, match="3 of 12"):
        substitution_effect(target, baseline, data, ["kernel"], budget=3)


@pytest.mark.filterwarnings("ignore:3 of 12 units are exchanged")
def test_candidates_resume_and_have_errors_by_sign(tmp_path):
    target, baseline, x, y = case(convnet)
    loaders = {name: [(x + s, y), (x - s, y)] for name, s in (("a", 0.0), ("b", 0.5))}
    chosen = random_scores(target, reducer="kernel").top(count=3)
    file = tmp_path / "run.safetensors"
    options = {"candidates": chosen, "checkpoint": file}
    first = substitution_effect(target, baseline, loaders, "kernel", **options)
    again = substitution_effect(target, baseline, loaders, "kernel", **options)
    for found in (first, again):
        difference = contrast(found["a"], found["b"]).by("sign")
        known = ~difference.standard_error.isnan()
        assert torch.equal(known, chosen.chosen)
        assert torch.equal(difference.values[known], (first["a"] - first["b"]).signed[known])
        assert not difference.values[~known].any()


def test_mistakes_are_found_before_any_exchange():
    target, baseline, x, y = case(convnet)
    data = [(x, y)]
    ranking = random_scores(target)
    for options, message in (
        ({"candidates": ranking}, "a ranking without a budget"),
        ({"candidates": [1, 2]}, "the candidates are a list"),
        ({"candidates": ranking.top(count=3), "budget": 2}, "holds 3 units in no order"),
        ({"candidates": random_scores(target, reducer="layer").top(count=1)}, "same units"),
        ({"candidates": ranking, "budget": 99}, "count is 99"),
    ):
        with pytest.raises(UnitError, match=message):
            substitution_effect(target, baseline, data, "kernel", **options)
    several = ["kernel", "layer"]
    for options in ({"budget": 2}, {"candidates": ranking.top(count=2)}):
        with pytest.raises(UnitError, match="expected one reducer"):
            substitution_effect(target, baseline, data, several, **options)
    with pytest.raises(DataError, match="can be read only once"):
        substitution_effect(target, baseline, iter(data), "kernel", budget=2)
    with pytest.raises(ModelError, match="training mode"):
        substitution_effect(copy.deepcopy(target).train(), baseline, data)


def test_nothing_is_disturbed():
    target, baseline, x, y = case(convnet)
    before = copy.deepcopy(target.state_dict())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    substitution_effect(target, baseline, [(x, y)])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, target.state_dict()[n]) for n, value in before.items())


def test_every_effect_of_a_deeper_zoo_is_finite():
    for name in ("batch_norm", "attention", "lstm", "embedding"):
        model, inputs, targets = ZOO[name]()
        found = substitution_effect(model, other_weights(model), [(inputs, targets)], "layer")
        assert found.signed.isfinite().all()
        assert isinstance(found.top(count=1), Selection)

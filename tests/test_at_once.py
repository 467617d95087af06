"""Several samples differentiated in one pass, and a compiled model: the same numbers, faster."""

import copy
import logging

import pytest
import torch
from torch import nn

from paramattr import FAIG, Adaptive, self_reference
from paramattr.errors import ObjectiveError
from tests.models import ZOO, other_weights

pytestmark = pytest.mark.usefixtures("one_thread")
NOT_BATCHED = {"lstm"}


@pytest.mark.parametrize("name", list(ZOO))
def test_all_at_once_equals_one_by_one(name, caplog):
    model, inputs, targets = ZOO[name]()
    faig = FAIG(model, other_weights(model))
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    options = {"n_steps": 3, "per_sample": True, "return_convergence_delta": True}
    alone, deltas = faig.attribute(several, targets, **options)
    with caplog.at_level(logging.INFO, logger="paramattr"):
        found, together = faig.attribute(several, targets, **options, internal_batch_size=2)
    for parameter, value in alone.items():
        torch.testing.assert_close(found[parameter], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(together, deltas, rtol=1e-9, atol=1e-9)
    assert ("one by one" in caplog.text) == (name in NOT_BATCHED)


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).double().eval()
    return model, other_weights(model), torch.randn(5, 2, 6, 6).double(), torch.randn(5, 2, 2, 2)


@pytest.mark.parametrize("size", [2, 3, 5, 9])
@pytest.mark.parametrize("objective", [None, self_reference])
def test_scores_do_not_depend_on_how_many_at_once(size, objective):
    model, baseline, x, y = small()
    faig = FAIG(model, baseline, **({} if objective is None else {"objective": objective}))
    loader = [x if objective else (x, y)]
    alone = faig.score(loader, reducer="kernel", n_steps=3).values
    found = faig.score(loader, reducer="kernel", n_steps=3, internal_batch_size=size).values
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)


def test_it_is_one_pass():
    model, baseline, x, y = small()
    seen = []
    model.register_forward_hook(lambda *call: seen.append(1))
    faig = FAIG(model, baseline)
    faig.score([(x, y)], reducer="kernel", n_steps=2)
    alone = len(seen)
    seen.clear()
    faig.score([(x, y)], reducer="kernel", n_steps=2, internal_batch_size=5)
    # each sample at both ends, then at the nodes; the first one beside a node, where cuts show
    assert alone == 5 * 2 + 5 * 2 + 2
    assert len(seen) == 2 + 2


def test_targets_of_any_shape_and_further_arguments():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, gain, power):
            return {"out": gain[:, None] * self.layer(x) ** power}

    def objective(output, targets):
        return (output["out"] - targets["near"][0]).square().sum(1) * targets["weight"]

    torch.manual_seed(0)
    model = Scaled().double()
    x, gain = torch.randn(4, 3).double(), torch.rand(4).double()
    targets = {"near": (torch.randn(4, 2).double(),), "weight": torch.rand(4).double()}
    faig = FAIG(model, other_weights(model), objective=objective)
    given = (x, targets, (gain, 2))
    alone = faig.attribute(*given, n_steps=3, per_sample=True)
    found = faig.attribute(*given, n_steps=3, per_sample=True, internal_batch_size=3)
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (lambda output, targets: output.sum(), "a scalar"),
        (lambda output, targets: output.detach().flatten(1).sum(1), "does not depend on the"),
        (lambda output, targets: output.flatten(1).sum(1).log() * float("inf"), "the objective is"),
    ],
)
def test_mistakes_are_told_as_one_by_one(objective, expected):
    model, baseline, x, y = small()
    with pytest.raises(ObjectiveError, match=expected):
        FAIG(model, baseline, objective=objective).score(
            [(x, y)], reducer="kernel", n_steps=2, internal_batch_size=5
        )


def test_a_number_that_is_not_finite_on_the_way_names_its_sample():
    model, baseline, x, y = small()

    calls = []

    def objective(output, targets):
        calls.append(1)  # two looks before the work, then a pass over both
        return output.flatten(1).sum(1) * (float("nan") if len(calls) > 2 else 1.0)

    with pytest.raises(ObjectiveError, match="the objective is nan for sample 0"):
        FAIG(model, baseline, objective=objective).attribute(
            x[:2], y[:2], n_steps=2, per_sample=True, internal_batch_size=2
        )


def test_adaptive_integration_goes_one_by_one():
    model, baseline, x, y = small()
    faig = FAIG(model, baseline)
    faig.score([(x, y)], reducer="kernel", method=Adaptive(rtol=0.1), internal_batch_size=5)
    assert len(faig.spent) == 5


def test_the_model_stays_as_it_was():
    model, baseline, x, y = small()
    before = copy.deepcopy(model.state_dict())
    FAIG(model, baseline).score([(x, y)], reducer="kernel", n_steps=2, internal_batch_size=5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_a_compiled_model_gives_the_same():
    model, baseline, x, y = small()
    found = FAIG(model, baseline, compile=True).attribute(x, y, n_steps=3)
    for name, value in FAIG(model, baseline).attribute(x, y, n_steps=3).items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)

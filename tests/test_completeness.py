"""Completeness is looked at: what the nodes miss is a number, and a cut gradient is told."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertForSequenceClassification

from paramattr import FAIG, Scores, contrast, fisher_times_change, gradient_times_change
from paramattr.errors import ModelError
from paramattr.objectives import (
    absolute_error,
    cross_entropy,
    logit_difference,
    squared_error,
    summed_output,
)
from tests.kills import check_resumes
from tests.models import other_weights

pytestmark = pytest.mark.usefixtures("one_thread")
IS_CUT = "incomplete"


class Detached(nn.Module):
    """The second of three layers runs without a graph."""

    def __init__(self, *, cuts: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.cuts = cuts

    def forward(self, x):
        h = self.first(x).tanh()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cuts):
            g = self.second(h)
        return self.last(h + g)


class Rounded(nn.Module):
    """A straight-through estimator: the forward pass rounds, the backward pass does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 64), nn.Linear(64, 3)

    def forward(self, x):
        h = self.first(x)
        return self.last(h + (h.sign() - h).detach())


class PaddingCut(nn.Module):
    """A table whose first row has no gradient, whatever module holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Parameter(torch.randn(5, 6)), nn.Linear(6, 3)

    def forward(self, x):
        tokens = (x > 0).long().cumsum(1)
        return self.last(torch.embedding(self.table, tokens, 0).mean(1)).tanh()


class Looked(nn.Module):
    """A table of rows of at most a length."""

    def __init__(self, kind: type[nn.Module] = nn.Embedding) -> None:
        super().__init__()
        self.table, self.last = kind(9, 6, max_norm=1.0), nn.Linear(6, 3)

    def forward(self, x):
        rows = self.table(x)
        return self.last(rows if rows.ndim == 2 else rows.mean(1)).tanh()


class Run(nn.Module):
    """A part with a batch norm runs again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.part = nn.Sequential(nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6))

    def forward(self, x):
        return self.last(checkpoint(self.part, self.first(x), use_reentrant=False))


class Functional(nn.Module):
    """A batch norm that no module of batch norm runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        n, h = self.norm, self.first(x)
        of_norm = (n.weight, n.bias, n.running_mean, n.running_var)
        return self.last(torch.batch_norm(h, *of_norm, False, 0.1, 1e-5, False).tanh())


class Writing(nn.Module):
    """It clamps its weight while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        with torch.no_grad():
            self.first.weight.clamp_(-0.3, 0.3)
        return self.last(self.first(x).tanh())


class Caching(nn.Module):
    """It keeps its last output, and lists the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last, self.shapes = nn.Linear(4, 3), None, []

    def forward(self, x):
        self.shapes.append(x.shape)
        self.last = self.newest = self.layer(x)
        return self.last


def made(kind, /, **options):
    """Give a target and a baseline of one kind, whose statistics differ too."""
    torch.manual_seed(0)
    target = kind(**options).eval()
    baseline = other_weights(target, scale=0.3)
    with torch.no_grad():
        for name, buffer in baseline.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.5)
    return target, baseline


def data(samples: int = 6):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(samples, 4, generator=draw), torch.randn(samples, 3, generator=draw)


def tokens(samples: int = 6):
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(0, 9, (samples, 5), generator=draw)
    return x, torch.randn(samples, 3, generator=draw)


def own_objective(model, x, y):
    """Run a copy: a model may write on itself."""
    with torch.no_grad():
        return squared_error(copy.deepcopy(model)(x), y).double()


def slow_residual(target, baseline, x, y, n_steps, rule="gausslegendre"):
    """Mean |sum of all attributions - change| over mean |change|, from the definition."""
    faig = FAIG(target, baseline)
    found = faig.attribute(x[:8], y[:8], n_steps=n_steps, method=rule, per_sample=True)
    totals = sum(value.double().flatten(1).sum(1) for value in found.values())
    change = own_objective(baseline, x[:8], y[:8]) - own_objective(target, x[:8], y[:8])
    return float((totals - change).abs().mean() / change.abs().mean())


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_the_residual_is_what_the_nodes_missed_of_the_first_eight(n_steps):
    target, baseline = made(Detached, cuts=False)
    x, y = data(12)
    faig = FAIG(target, baseline)
    found = faig.score([(x, y)], reducer="layer", n_steps=n_steps).residual
    assert found == pytest.approx(
        slow_residual(target, baseline, x, y, n_steps), rel=1e-3, abs=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [{"partitions": 2}, {"internal_batch_size": 3}, {"method": "riemann_left"}],
    ids=["partitions", "vmap", "left"],
)
def test_the_residual_is_the_same_by_every_way_of_summing(options):
    target, baseline = made(Detached, cuts=False)
    x, y = data(8)
    found = FAIG(target, baseline).score([(x, y)], reducer="layer", n_steps=2, **options).residual
    rule = options.get("method", "gausslegendre")
    assert found == pytest.approx(slow_residual(target, baseline, x, y, 2, rule), rel=1e-3)


def test_the_residual_counts_all_that_moves_where_a_part_is_reported():
    target, baseline = made(Detached, cuts=False)
    x, y = data(8)
    found, part = (
        FAIG(target, baseline, parameters=names).score([(x, y)], reducer="layer", n_steps=2)
        for names in (None, ["last.weight"])
    )
    assert part.residual == pytest.approx(found.residual, rel=1e-3)


def test_the_residual_counts_entries_of_no_unit():
    torch.manual_seed(0)
    target = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).eval()
    faig = FAIG(target, other_weights(target, scale=0.3))
    batch = torch.randn(6, 1, 4, 4), torch.randn(6, 2)
    kernels, layers = (
        faig.score([batch], reducer=units, n_steps=2) for units in ("kernel", "layer")
    )
    assert kernels.unassigned > 0.1
    assert kernels.residual == pytest.approx(layers.residual, rel=1e-3)


def test_the_adaptive_rule_leaves_less_than_it_tolerates():
    target, baseline = made(Detached, cuts=False)
    found = FAIG(target, baseline).score([data()], reducer="layer", method="adaptive")
    assert 0 < found.residual < 1e-3


def test_the_residual_is_kept_in_files_and_in_what_is_made_of_scores(tmp_path):
    target, baseline = made(Detached, cuts=False)
    x, y = data()
    both = FAIG(target, baseline).score(
        {"a": [(x, y)], "b": [(2 * x, y)]}, reducer="layer", n_steps=2
    )
    a, b = both["a"], both["b"]
    assert a.residual != b.residual
    a.save(tmp_path / "a.safetensors")
    assert Scores.load(tmp_path / "a.safetensors").residual == a.residual
    assert (3 * a).residual == (a / 2).residual == (-a).residual == a.residual
    assert contrast(a, b).residual == (a + b).residual == max(a.residual, b.residual)
    assert math.isnan((a * b).residual)


def test_a_method_that_is_not_complete_has_no_residual():
    target, baseline = made(Detached, cuts=False)
    for method in (gradient_times_change, fisher_times_change):
        assert math.isnan(method(target, baseline, [data()], reducer="layer").residual)
    of_both = gradient_times_change(target, baseline, {"a": [data()]}, reducer=["layer"])
    assert math.isnan(of_both["a"]["layer"].residual)


def test_the_residual_survives_a_stop(tmp_path):
    target, baseline = made(Detached, cuts=False)
    x, y = data(9)
    batches = [(x[k : k + 3], y[k : k + 3]) for k in (0, 3, 6)]
    score = partial(FAIG(target, baseline).score, reducer="layer", n_steps=2)
    resumed = check_resumes(score, batches, 1, tmp_path / "run.safetensors")
    assert resumed.residual == score(batches).residual


@pytest.mark.parametrize(
    ("kind", "module"),
    [(Detached, "second"), (PaddingCut, "table")],
    ids=["no_grad", "padding"],
)
def test_a_cut_is_told_with_its_share_and_its_module(kind, module):
    target, baseline = made(kind)
    with pytest.warns(UserWarning, match=IS_CUT) as caught:
        FAIG(target, baseline).score([data()], reducer="layer")
    [told] = [str(w.message) for w in caught if IS_CUT in str(w.message)]
    assert f"'{module}'" in told
    assert "% is missing" in told


def test_a_straight_through_estimator_is_told_with_its_share():
    with pytest.warns(UserWarning, match=rf"{IS_CUT}.*% is missing"):
        FAIG(*made(Rounded)).score([data()], reducer="layer")


def test_a_cut_is_told_by_attribute_too():
    with pytest.warns(UserWarning, match=IS_CUT):
        FAIG(*made(Detached)).attribute(*data())


def dora():
    """Give two BERTs with adapters whose norms are detached, both trained."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8,
    )  # fmt: skip
    lora = LoraConfig(
        r=2, target_modules=["query", "value"], use_dora=True, init_lora_weights=False
    )
    target = get_peft_model(BertForSequenceClassification(config), lora).eval()
    baseline = copy.deepcopy(target)
    with torch.no_grad():
        for name, parameter in baseline.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter))
    return target, baseline


def test_a_pair_of_doras_is_told():
    batch = {"input_ids": torch.randint(0, 20, (4, 6)), "labels": torch.tensor([0, 1, 1, 0])}
    pair = dora()
    with pytest.warns(UserWarning, match=IS_CUT):
        FAIG(*pair, objective=cross_entropy).score([batch], reducer="layer")


@pytest.mark.parametrize(
    ("kind", "options", "given"),
    [
        (Detached, {"cuts": False}, data),
        (Run, {}, data),
        (Functional, {}, data),
        (Looked, {}, tokens),
        (Looked, {"kind": nn.EmbeddingBag}, tokens),
    ],
    ids=["plain", "run-again", "functional-norm", "max_norm", "bag-max_norm"],
)
def test_what_is_complete_is_complete_and_nothing_is_told(kind, options, given):
    target, baseline = made(kind, **options)
    x, y = given()
    before = [copy.deepcopy(model.state_dict()) for model in (target, baseline)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = FAIG(target, baseline).score([(x, y)], reducer="layer", n_steps=64)
        total = sum(
            float(v.double().sum())
            for v in FAIG(target, baseline).attribute(x, y, n_steps=64).values()
        )
    assert not [w for w in caught if IS_CUT in str(w.message)]
    change = float((own_objective(baseline, x, y) - own_objective(target, x, y)).sum())
    assert total == pytest.approx(change, rel=0.01)
    assert found.residual < 0.01
    for model, states in zip((target, baseline), before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, states[name]), name


@pytest.mark.parametrize("seed", range(12))
def test_the_bends_of_relu_are_no_cuts(seed):
    torch.manual_seed(seed)
    target = nn.Sequential(
        nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    baseline = other_weights(target, scale=0.5, seed=seed + 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FAIG(target.eval(), baseline, objective=absolute_error).score([data(3)], reducer="layer")
    assert not [w for w in caught if IS_CUT in str(w.message)]


def test_a_model_that_rounds_within_is_no_cut():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 32), nn.Linear(32, 3)

        def forward(self, x):
            return self.last(self.first(x).bfloat16().tanh().float())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FAIG(*made(Half)).score([data(3)], reducer="layer")
    assert not [w for w in caught if IS_CUT in str(w.message)]


def test_a_model_that_writes_on_its_parameters_is_refused_and_left_as_it_was():
    target, baseline = made(Writing)
    before = [copy.deepcopy(model.state_dict()) for model in (target, baseline)]
    with pytest.raises(ModelError, match=r"writes on its parameter 'first\.weight'"):
        FAIG(target, baseline).score([data()], reducer="layer")
    for model, states in zip((target, baseline), before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, states[name]), name


def test_what_a_model_keeps_does_not_outlive_a_call_and_its_lists_do():
    target, baseline = made(Caching)
    FAIG(target, baseline).score([data()], reducer="layer")
    FAIG(target, baseline).attribute(*data())
    for model in (target, baseline):
        assert model.last is None
        assert not hasattr(model, "newest")
        assert model.shapes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_baseline_is_not_rounded_to_a_half_precision_target(dtype):
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).eval().to(dtype)
    baseline = other_weights(copy.deepcopy(target).float(), scale=1e-3)
    x, y = data()
    found = FAIG(target, baseline).attribute(x, y, n_steps=8)
    change = own_objective(baseline, x, y) - own_objective(copy.deepcopy(target).float(), x, y)
    total = sum(float(value.double().sum()) for value in found.values())
    assert total == pytest.approx(float(change.sum()), rel=0.01)


def swapped(objective, *, better: str):
    """Give two models of which one fits the data, as (target, baseline)."""
    torch.manual_seed(0)
    fits = nn.Linear(4, 3).eval()
    other = other_weights(fits, scale=0.3)
    x, _ = data(16)
    with torch.no_grad():
        y = fits(x) + 0.01 * torch.randn(16, 3)
    ends = (fits, other) if better == "target" else (other, fits)
    return FAIG(*ends, objective=objective), (x, y)


def told(faig, loader):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faig.score(loader, reducer="layer")
    return [str(w.message) for w in caught if "swapped" in str(w.message)]


def test_a_target_worse_than_its_baseline_is_told():
    faig, batch = swapped(squared_error, better="baseline")
    [message] = told(faig, [batch])
    assert "Are they swapped?" in message


def test_a_better_target_and_one_that_is_better_under_another_condition_are_not():
    faig, batch = swapped(squared_error, better="target")
    assert not told(faig, [batch])
    worse = (batch[0], batch[1] + 3)
    with torch.no_grad():
        worse = (batch[0], faig.baseline(batch[0]))
    assert told(faig, [worse])
    assert not told(faig, {"tuned": [batch], "other": [worse]})


def test_an_objective_that_is_no_loss_is_not_compared():
    faig, batch = swapped(logit_difference(0, 1), better="baseline")
    assert not told(faig, [batch])

    def score(output, targets):
        return -squared_error(output, targets)

    faig, batch = swapped(score, better="target")
    assert told(faig, [batch])
    score.is_loss = False
    assert not told(faig, [batch])


def test_a_few_samples_say_nothing_of_the_mean():
    faig, (x, y) = swapped(squared_error, better="baseline")
    assert not told(faig, [(x[:3], y[:3])])


class Sloped(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(4, 3), nn.LeakyReLU(slope)
        self.register_buffer("order", torch.arange(3))

    def forward(self, x):
        return self.act(self.layer(x))[:, self.order]


def test_the_gap_between_models_names_its_cause():
    torch.manual_seed(0)
    target, baseline = Sloped(0.01).eval(), Sloped(0.9).eval()
    with pytest.warns(UserWarning, match=r"layer 'act' has negative_slope 0\.01 and 0\.9"):
        FAIG(target, baseline).score([data()], reducer="layer")
    turned = Sloped(0.01).eval()
    turned.order = torch.tensor([2, 1, 0])
    with pytest.warns(UserWarning, match="buffer 'order' differs"):
        FAIG(target, turned).score([data()], reducer="layer")


def test_the_gap_is_told_where_sizes_may_differ_too():
    torch.manual_seed(0)
    target, baseline = Sloped(0.01).eval(), Sloped(0.9).eval()
    with pytest.warns(UserWarning, match="negative_slope"):
        FAIG(target, baseline, strict=False).score([data()], reducer="layer")


class Waving(nn.Module):
    """A sine along the path, of which the gradient sees a share."""

    def __init__(self, weight: float, waves: float, seen: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))
        self.waves, self.seen = waves, seen

    def forward(self, x):
        weight = self.seen * self.weight + (1 - self.seen) * self.weight.detach()
        return torch.sin(self.waves * weight * x)


@pytest.mark.parametrize(
    ("waves", "seen", "where"),
    [
        (45, 0.6, "at 0.73 of the path"),
        (48, 0.6, "over the whole path"),
        (100, 1.0, None),
    ],
    ids=["a cut", "a cut and a bend", "a bend"],
)
def test_a_cut_misses_alike_at_several_steps_and_a_bend_does_not(waves, seen, where):
    """The widest step's difference bends away: it misses 2.5, 3.5 and 80 times less, or more."""
    pair = (Waving(weight, waves, seen) for weight in (0.0, 1.0))
    batch = torch.ones(1, 1, dtype=torch.float64), None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FAIG(*pair, objective=summed_output).score([batch], reducer="scalar", n_steps=16)
    said = [str(one.message) for one in caught if IS_CUT in str(one.message)]
    assert len(said) == (where is not None)
    assert all(f"incomplete: {where} the first sample" in one for one in said)


class Bent(nn.Module):
    """Rises faster from two places on, each a little beyond a place that is looked at."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bends = sum(torch.relu(self.weight - place) for place in (0.501, 0.701))
        return x * (self.weight + 2 * bends)


def test_bends_beside_both_places_are_no_cut():
    batch = torch.ones(1, 1, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FAIG(Bent(0.0), Bent(1.0), objective=summed_output).attribute(batch, n_steps=4)

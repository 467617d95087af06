"""The unit `channel`: a layer's row, its bias, and what the norm that follows it holds for it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paramattr import FAIG, UnitIndex, only, substitute
from tests.models import other_weights
from tests.tiny import seeded

pytestmark = pytest.mark.usefixtures("one_thread")


class ConvNorms(nn.Module):
    """Convolutions with norms right behind them, behind an activation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Conv2d(3, 4, 3, bias=False)
        self.late = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.head(x)))
        x = self.late(F.max_pool2d(F.relu(self.body(x)), 2))
        return self.fc(x.mean((2, 3)))


def moved(model):
    """Give other weights and other statistics."""
    other, draw = other_weights(model), torch.Generator().manual_seed(5)
    for name, buffer in other.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=draw, dtype=buffer.dtype) + 0.5)
        assert not torch.equal(buffer, model.get_buffer(name)) or not buffer.is_floating_point()
    return other


def parts_of(model, group, number):
    """Name the tensors of one unit, with the places that belong to it."""
    index = UnitIndex.of(model, "channel")
    chosen = torch.zeros(len(index), dtype=torch.bool)
    start, shape = index.groups[group]
    assert len(shape) == 1
    chosen[start + number] = True
    held = {**index.labels, **index.buffers}
    found = {name: index.mask(name, chosen) for name in held}
    return {name: mask for name, mask in found.items() if mask.any()}


def followed(model):
    """Name the norms' tensors that have units, each with the layer that it belongs to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = UnitIndex.of(model, "channel")
    found = {}
    for name, labels in index.all_labels():
        path = name.rpartition(".")[0]
        [group] = [
            group
            for group, (start, shape) in index.groups.items()
            if start <= int(labels.max()) < start + shape[0]
        ]
        if group != path:
            found[name] = group
    return found


@pytest.mark.filterwarnings("error")
def test_a_channel_is_a_row_its_bias_and_what_its_norm_holds():
    model = seeded(ConvNorms).eval()
    own = parts_of(model, "head", 1)
    norms = ("weight", "bias", "running_mean", "running_var")
    assert own.keys() == {"head.weight", "head.bias", *(f"norm.{name}" for name in norms)}
    assert own["head.weight"].nonzero()[:, 0].unique().tolist() == [1]
    assert own["head.weight"].sum() == 2 * 9
    for name in own.keys() - {"head.weight"}:
        assert own[name].tolist() == [False, True, False]
    late = parts_of(model, "body", 3)
    assert late.keys() == {"body.weight", *(f"late.{name}" for name in norms)}
    assert parts_of(model, "fc", 0).keys() == {"fc.weight", "fc.bias"}
    assert len(UnitIndex.of(model, "channel")) == 3 + 4 + 2


def test_all_channels_of_a_conv_norm_net_are_the_baseline_bit_for_bit():
    model = seeded(ConvNorms).eval()
    baseline, index = moved(model), UnitIndex.of(model, "channel")
    loader = [(torch.randn(3, 2, 6, 6), torch.randn(3, 2))]
    scores = FAIG(model, baseline).score(loader, reducer="channel", n_steps=2)
    assert scores.unassigned == 0
    assert scores.index == index
    found = substitute(model, baseline, scores.top(count=len(index), warn=False))
    expected = baseline.state_dict()
    for name, value in found.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, expected[name])


class Chain(nn.Module):
    """A layer, what lies between, and a norm."""

    def __init__(self, layer, norm, between=lambda x: x) -> None:
        super().__init__()
        self.layer, self.norm, self.between = layer, norm, between

    def forward(self, x):
        return self.norm(self.between(self.layer(x)))


class RootMeanSquare(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.weight * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


class CustomNorm(RootMeanSquare):
    pass


CONV, LINEAR = (lambda: nn.Conv2d(2, 6, 3)), (lambda: nn.Linear(4, 6))
FOLLOWERS = {
    "batch": (CONV, lambda: nn.BatchNorm2d(6), None),
    "batch, statistics alone": (CONV, lambda: nn.BatchNorm2d(6, affine=False), None),
    "batch, 1d": (lambda: nn.Conv1d(2, 6, 3), lambda: nn.BatchNorm1d(6), None),
    "batch, of features": (LINEAR, lambda: nn.BatchNorm1d(6), lambda x: x.flatten(0, -2)),
    "batch, transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
        lambda: nn.BatchNorm2d(6),
        None,
    ),
    "instance": (CONV, lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True), None),
    "group": (CONV, lambda: nn.GroupNorm(2, 6), None),
    "layer": (LINEAR, lambda: nn.LayerNorm(6), None),
    "layer, whole image": (CONV, lambda: nn.LayerNorm((6, 4, 4)), None),
    "layer, channels last": (CONV, lambda: nn.LayerNorm(6), lambda x: x.permute(0, 2, 3, 1)),
    "by name": (LINEAR, lambda: CustomNorm(6), None),
    "behind an activation": (CONV, lambda: nn.BatchNorm2d(6), F.gelu),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 6, 3)),
        lambda: nn.BatchNorm2d(6),
        None,
    ),
}
NEITHER = {
    "layer norm along the width": (CONV, lambda: nn.LayerNorm(6), None),
    "shuffled": (
        lambda: nn.Conv2d(2, 24, 3),
        lambda: nn.BatchNorm2d(6),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "as many, in another order": (CONV, lambda: nn.BatchNorm2d(6), lambda x: x.flip(1)),
    "mixed": (CONV, lambda: nn.BatchNorm2d(6), lambda x: x - x.mean(1, keepdim=True)),
    "two of them are one": (
        CONV,
        lambda: nn.BatchNorm2d(3),
        lambda x: x.unflatten(1, (3, 2)).mean(2),
    ),
}


def chain(layer, norm, between):
    return seeded(lambda: Chain(layer(), norm(), between or (lambda x: x))).eval()


@pytest.mark.parametrize("case", FOLLOWERS.values(), ids=FOLLOWERS)
def test_norms_of_every_kind_follow_the_layer_they_read(case):
    model = chain(*case)
    names = [n for n, t in model.state_dict().items() if n.startswith("norm.") and t.ndim]
    found = followed(model)
    assert {name for name in found if name.startswith("norm.")} == set(names)
    assert {found[name] for name in names} == {"layer"}


@pytest.mark.parametrize("case", NEITHER.values(), ids=NEITHER)
def test_a_norm_whose_entries_are_no_channels_of_the_layer_is_left_out_by_name(case):
    model = chain(*case)
    with pytest.warns(UserWarning, match=r"layout is not known.*'norm\.weight'.*unassigned"):
        index = UnitIndex.of(model, "channel")
    assert not any(name.startswith("norm.") for name, _ in index.all_labels())


class Shortcut(nn.Module):
    """Norms that read more than one layer's output, in the ways that networks do it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        if how == "hook":
            self.two.register_forward_hook(lambda module, args, output: output.flip(1))

    def forward(self, x, residual=None):
        y = self.one(x)
        z = self.two(y)
        if self.how == "sum":
            z = z + x
        elif self.how == "in place":
            z.add_(y)
        elif self.how == "written":
            z[:, 0] = y[:, 0]
        elif self.how == "first":
            return self.one(self.norm(x))
        elif self.how == "twice":
            z = self.norm(z) + self.norm(y)
        elif self.how == "left out" and residual is None:
            z = z + y
        return self.norm(z)


WAYS = ["sum", "in place", "written", "first", "twice", "left out", "hook"]


@pytest.mark.parametrize("how", WAYS)
def test_a_norm_that_reads_something_else_too_is_left_out(how):
    model = seeded(lambda: Shortcut(how)).eval()
    assert not any(name.startswith("norm.") for name in followed(model))
    assert followed(seeded(lambda: Shortcut("plain")).eval())["norm.weight"] == "two"


def test_norms_that_share_a_weight_follow_one_layer_or_none():
    model = seeded(lambda: nn.Sequential(*[Chain(CONV(), nn.BatchNorm2d(6)) for _ in range(2)]))
    model[1].layer = nn.Conv2d(6, 6, 1)
    model[1].norm.weight = model[0].norm.weight
    found = followed(model.eval())
    assert "0.norm.weight" not in found
    assert found["0.norm.bias"] == "0.layer"
    assert found["1.norm.bias"] == "1.layer"


class Branching(nn.Module):
    """What no trace gets through, around what one does."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Chain(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), F.relu)
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.block(x)
        return self.norm(self.conv(x)) if float(x.detach().sum()) > -1e9 else x


def test_where_a_model_cannot_be_traced_its_modules_are_and_the_rest_is_named():
    model = seeded(Branching).eval()
    baseline, loader = moved(model), [(torch.randn(2, 2, 5, 5), torch.randn(2, 3, 5, 5))]
    found = followed(model)
    assert found["block.norm.running_var"] == "block.layer"
    assert not any(name.startswith("norm.") for name in found)
    with pytest.warns(UserWarning, match=r"4 weights are left out.*'norm\.weight', 'norm\.bias'"):
        scores = FAIG(model, baseline).score(loader, reducer=["channel", "scalar"], n_steps=2)
    every = scores["scalar"]
    rest = sum(value for unit, value in every if unit.name.startswith("norm."))
    assert scores["channel"].unassigned == pytest.approx(rest / float(every.values.sum()))


def test_all_else_is_left_out_by_name():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.PReLU())
    with pytest.warns(UserWarning, match=r"2 weights are left out.*'0\.weight', '2\.weight'"):
        index = UnitIndex.of(model, "channel")
    assert list(index.groups) == ["1"]
    assert only("channel", ["1"]).of_buffers


def test_looking_for_norms_disturbs_nothing():
    model = seeded(ConvNorms).train()
    before, keys = copy.deepcopy(model.state_dict()), [set(vars(m)) for m in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    UnitIndex.of(model, "channel")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [set(vars(m)) for m in model.modules()] == keys
    assert model.training

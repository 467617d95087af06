"""Units of buffers: a norm's statistics go with its weight, through sums, edits and files."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import (
    Scores,
    Selection,
    UnitIndex,
    Units,
    inserted,
    modulate,
    retrain_only,
    substitute,
    substituted,
)
from paramattr.errors import ModelError, UnitError
from paramattr.surgery.edits import holding
from tests.tiny import convnet, inputs_for, moved, seeded

NAMES = ["norm.running_mean", "norm.running_var"]


def chosen(index: UnitIndex, *units: int) -> Selection:
    return Selection(index, torch.tensor([n in units for n in range(len(index))]))


class Plain(nn.Module):
    """A norm without weights, and a buffer that no norm holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.register_buffer("scale", torch.tensor([2.0, 3.0]), persistent=False)
        self.register_buffer("steps", torch.tensor(4))

    def forward(self, x):
        return self.norm(self.fc(x)) * self.scale


def test_statistics_have_the_labels_of_their_norms_weight():
    scalars, layers = (UnitIndex.of(convnet(), r) for r in ("scalar", "layer"))
    for index in (scalars, layers):
        assert list(index.buffers) == NAMES
        for name in NAMES:
            assert torch.equal(index.buffers[name].labels, index.labels["norm.weight"])
    assert not any("running" in name for name in (*scalars.shapes, *scalars.labels))
    assert not any("running" in group for group in scalars.groups)
    for reducer in ("kernel", "output_channel", "input_channel"):
        assert not UnitIndex.of(convnet(), reducer).buffers


def test_a_reducer_of_ones_own_is_not_asked_about_statistics():
    asked = []

    def norms(name, parameter, module):
        asked.append(name)
        if not isinstance(module, nn.BatchNorm2d):
            return None
        return Units("channels", (2,), torch.tensor([0, 1, -1]))

    index = UnitIndex.of(convnet(), norms)
    assert asked == list(index.shapes)
    assert list(index.buffers) == NAMES
    assert index.mask(NAMES[0], torch.tensor([False, True])).tolist() == [False, True, False]


def test_only_scalar_and_layer_take_buffers_that_no_weight_carries():
    layers = UnitIndex.of(Plain(), "layer")
    assert list(layers.groups) == ["fc", "scale", "norm"]
    scalars = UnitIndex.of(Plain(), "scalar")
    assert list(scalars.buffers) == ["scale", *NAMES]
    assert scalars[-1] == ("norm.running_var", (1,))
    assert not UnitIndex.of(Plain(), "output_channel").buffers
    assert not UnitIndex.of(
        Plain(), lambda n, p, m: Units("all", (1,), torch.zeros([1] * p.ndim))
    ).buffers


@settings(max_examples=20)
@given(st.sampled_from(["scalar", "layer", "kernel"]), st.integers(0, 99))
def test_units_and_the_rest_add_up_to_all_entries(reducer, seed):
    index = UnitIndex.of(convnet(), reducer)
    shapes = index.shapes | dict.fromkeys(NAMES, (3,))
    values = seeded(
        lambda: {n: torch.rand(s, dtype=torch.float64) for n, s in shapes.items()}, seed
    )
    units, rest = index.reduce_with_rest(values)
    assert torch.equal(units, index.reduce(values))
    total = sum(float(v.sum()) for v in values.values())
    assert float(units.sum() + rest) == pytest.approx(total)
    slow = [
        sum(float(values[n][index.mask(n, torch.arange(len(index)) == u)].sum()) for n in shapes)
        if set(NAMES) <= index.buffers.keys()
        else None
        for u in range(len(index))
    ]
    if None not in slow:
        torch.testing.assert_close(units, torch.tensor(slow, dtype=torch.float64))
        norm = index.layers()["norm"]
        assert Scores(index, units).by_layer()["norm"] == pytest.approx(float(units[norm].sum()))


def test_an_index_with_buffers_is_saved_and_told_apart(tmp_path):
    index = UnitIndex.of(convnet(), "layer")
    scores = Scores(index, torch.arange(4))
    scores.save(tmp_path / "s")
    assert Scores.load(tmp_path / "s").index == index
    without = UnitIndex(index.shapes, index.labels, index.groups)
    assert without != index
    assert without.fingerprint() != index.fingerprint()
    with pytest.raises(UnitError, match=r"'norm.running_mean' is not known"):
        without.mask(NAMES[0], torch.zeros(4, dtype=torch.bool))


def test_substituting_a_norm_takes_its_statistics_and_its_counter():
    target, baseline = convnet(), moved(convnet(), buffers=True)
    index = UnitIndex.of(target, "layer")
    norm = chosen(index, list(index.groups).index("norm"))
    edited = substitute(target, baseline, norm)
    for name, value in edited.state_dict().items():
        source = baseline if name.startswith("norm.") else target
        assert torch.equal(value, source.state_dict()[name]), name
    with inserted(target, baseline, ~norm):
        assert all(torch.equal(v, edited.state_dict()[n]) for n, v in target.state_dict().items())
    entries = UnitIndex.of(target, "scalar")
    one_channel = Selection(entries, torch.zeros(len(entries), dtype=torch.bool))
    start = entries.groups["norm.weight"][0]
    one_channel.chosen[start] = True
    edited = substitute(target, baseline, one_channel)
    assert edited.norm.running_var[0] == baseline.norm.running_var[0]
    assert edited.norm.running_var[1] == target.norm.running_var[1]
    assert edited.norm.num_batches_tracked == target.norm.num_batches_tracked


@pytest.mark.parametrize("reducer", ["layer", "scalar"])
def test_everything_is_the_baseline_with_buffers_of_every_kind(reducer):
    target, baseline = seeded(Plain).eval(), seeded(Plain, 1).eval()
    baseline.norm.running_mean.add_(1)
    baseline.norm.running_var.mul_(2)
    baseline.scale.mul_(3)
    baseline.steps.add_(1)
    x = torch.randn(3, 2)
    index = UnitIndex.of(target, reducer)
    whole = chosen(index, *range(len(index)))
    edited = substitute(target, baseline, whole)
    assert torch.equal(edited(x), baseline(x))
    assert edited.steps == baseline.steps
    with substituted(target, baseline, whole):
        assert torch.equal(target(x), baseline(x))
    before = copy.deepcopy(target)
    assert torch.equal(target(x), before(x))
    # A mapping lacks the buffer that is not saved, which counts as equal.
    edited = substitute(target, baseline.state_dict(), whole)
    assert torch.equal(edited.scale, target.scale)
    assert torch.equal(edited.norm.running_var, baseline.norm.running_var)
    parameters = {n: p.detach() for n, p in baseline.named_parameters()}
    assert torch.equal(substitute(target, parameters, whole).norm.running_var, torch.ones(2))


def test_a_negative_variance_is_refused_with_its_channel():
    target, baseline = convnet(), moved(convnet())
    baseline.norm.running_var.copy_(target.norm.running_var * torch.tensor([1.0, 4.0, 1.0]))
    index = UnitIndex.of(target, "layer")
    norm = chosen(index, 1)
    modulate(target, baseline, norm, 1.3)
    with pytest.raises(ModelError, match=r"strength 1.5.*'norm.running_var' -.*channel 1.* 0 to 1"):
        modulate(target, baseline, norm, 1.5)
    modulate(target, baseline, ~norm, 1.5)


def test_a_buffer_that_a_forward_replaces_is_put_back():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen = self.seen + 1
            return x

    model = Counts()
    own = model.seen
    with holding(model, {"seen": torch.tensor([5.0])}):
        model(torch.ones(1))
        assert model.seen == 6
    assert model.seen is own
    assert own == 0


def test_retraining_keeps_statistics_still_in_training_mode_too():
    model, x = convnet(), inputs_for(convnet)
    index = UnitIndex.of(model, "layer")
    trainable = retrain_only(model, chosen(index, 1)).train()
    trainable.dropout.p = 0.0
    assert trainable.norm.training
    before = copy.deepcopy(trainable.state_dict())
    assert torch.equal(trainable(x), model(x))
    with pytest.raises(ValueError, match="4D"):
        trainable.norm(torch.ones(2))
    assert trainable.norm.training
    after = trainable.state_dict()
    for name in (*NAMES, "norm.num_batches_tracked"):
        assert torch.equal(after[name], before[name])


def test_a_selection_of_statistics_alone_cannot_be_retrained():
    index = UnitIndex.of(Plain(), "layer")
    with pytest.raises(UnitError, match="no entry of a parameter"):
        retrain_only(Plain(), chosen(index, 2))


def test_a_selection_of_other_buffers_is_refused():
    index = UnitIndex.of(Plain(), "layer")
    other = Plain()
    other.norm = nn.BatchNorm1d(3, affine=False)
    with pytest.raises(UnitError, match=r"buffer 'norm.running_mean' is \(3,\) here and \(2,\)"):
        substitute(other, other, chosen(index, 0))

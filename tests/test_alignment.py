"""Alignment changes no function, finds what was permuted and rescaled, and says what it cannot."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from benchmarks.model_pairs import tuned
from paramattr import align
from paramattr.errors import ModelError
from paramattr.surgery.alignment import channel_spaces, multiply, reorder

pytestmark = pytest.mark.usefixtures("one_thread")


class Residual(nn.Module):
    """A stream of channels that two layers write to, as in a residual network."""

    def __init__(self, norm=False):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.inner, self.outer = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.last = nn.Conv2d(6, 2, 3)

    def forward(self, x):
        x = F.leaky_relu(self.first(x), 0.1)
        return self.last(x + self.outer(torch.relu(self.norm(self.inner(x)))))


MODELS = {
    "sequential": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 5, 3),
        nn.LeakyReLU(0.2),
        nn.Conv2d(5, 2, 3),
    ),
    "residual": Residual,
    "residual with a batch norm": lambda: Residual(norm=True),
}


def built(name, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name]().double()
    model(torch.randn(8, 2, 9, 9).double())
    return model.eval()


def shuffled(model, seed=0, factors=True):
    """Give another form of the same function."""
    draw = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for space in channel_spaces(other):
            order = torch.randperm(space.size, generator=draw)
            factor = torch.randn(space.size, generator=draw, dtype=torch.float64).exp()
            if space.norms or not factors:
                factor = torch.ones_like(factor)
            for names, side, own in (
                (space.outgoing, "out", factor),
                (space.incoming, "in", 1 / factor),
            ):
                for name in names:
                    reorder(other.get_submodule(name), side, order)
                    multiply(other.get_submodule(name), side, own)
            for name in space.norms:
                norm = other.get_submodule(name)
                for tensor in (*norm.parameters(), *norm.buffers()):
                    if tensor.ndim:
                        tensor.copy_(tensor[order].clone())
    return other


def inputs():
    return torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(1)).double()


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(sorted(MODELS)), st.integers(0, 50))
def test_another_form_is_brought_back(name, seed):
    model = built(name)
    other = shuffled(model, seed)
    with torch.no_grad():
        torch.testing.assert_close(other(inputs()), model(inputs()))  # the same function
    found = align(other, model)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=1e-3, atol=1e-5)


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(sorted(MODELS)), st.integers(0, 50))
def test_the_function_stays_whatever_the_target(name, seed):
    model, target = built(name), built(name, seed + 1)
    before = copy.deepcopy(model.state_dict())
    found = align(model, target)
    with torch.no_grad():
        torch.testing.assert_close(found(inputs()), model(inputs()), rtol=1e-6, atol=1e-9)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def distance(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return float(sum((a - b).detach().square().sum() for a, b in pairs))


@pytest.mark.parametrize("name", MODELS)
def test_a_tuned_model_is_brought_back_nearly(name):
    """The counter-property: left as it is, the other form is far away."""
    baseline = built(name)
    target = tuned(baseline, scale=0.02)
    other = shuffled(baseline)
    plain = distance(baseline, target)
    assert distance(other, target) > 20 * plain
    assert distance(align(other, target), target) < 3 * plain


def test_only_what_is_asked_for_changes():
    model = built("sequential")
    permuted = shuffled(model, factors=False)
    found = align(permuted, model, rescale=False)
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)
    kept = align(permuted, model, permute=False, rescale=False)
    for key, value in permuted.state_dict().items():
        assert torch.equal(kept.state_dict()[key], value)


class Branching(nn.Linear):
    """Decides by its input."""

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh()), r"layer '1' \(Tanh\) .*ReLU alone"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.GELU()), r"layer '1' \(GELU\)"),
        (lambda: nn.Sequential(Branching(2, 2)), "cannot be traced"),
    ],
)
def test_what_cannot_be_aligned_is_refused(build, message):
    model = build()
    if isinstance(model[0], Branching):

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = model[0]

            def forward(self, x):
                return self.inner(x) if x.sum() > 0 else x

        model = Outer()
    with pytest.raises(ModelError, match=message):
        align(model, copy.deepcopy(model))


def test_models_of_two_architectures_are_refused():
    with pytest.raises(ModelError, match="of one architecture"):
        align(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 4)))


def test_outputs_and_unknown_layers_keep_their_channels():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    assert channel_spaces(model) == []

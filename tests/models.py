"""The zoo: small models of every layer kind, in float64 and evaluation mode.

`ZOO` maps a name to a function that gives `(model, inputs, targets)`, the same at every call.
"""

import copy
import functools
import zlib
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from tests.tiny import seeded

ZOO = {}
BATCH = 2


def zoo(build):
    """Enter a function of the zoo, which gives a model and its inputs, drawn with its own seed."""

    @functools.wraps(build)
    def made():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(build.__name__.encode()))
            model, inputs = build()
            model = model.double().eval()
            with torch.no_grad():
                several = inputs if isinstance(inputs, tuple) else (inputs,)
                output = model(*several)
            return model, inputs, torch.randn_like(output)

    ZOO[build.__name__] = made
    return made


def other_weights(model: nn.Module, *, scale: float = 0.3, seed: int = 1) -> nn.Module:
    """Copy a model, ties and buffers included, and move every parameter by some noise."""
    draw = torch.Generator().manual_seed(seed)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.add_((scale * noise).to(parameter.dtype))
    return moved


def pair_of(build, *, scale: float = 0.3, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Build a model from its own random draw, and a copy whose every parameter is moved."""
    target = seeded(build, seed).to(dtype).eval()
    return target, other_weights(target, scale=scale)


def mlp(*widths: int) -> nn.Module:
    """Linear layers with a tanh between two of them."""
    layers = [nn.Linear(*ends) for ends in pairwise(widths)]
    return nn.Sequential(*[part for one in layers for part in (one, nn.Tanh())][:-1])


def batches(data, *sizes: int) -> list:
    """Split inputs and targets into batches of these sizes."""
    return list(zip(*(one.split(sizes) for one in data), strict=True))


def random_batches(sizes, inputs, targets, *, seed: int = 1, dtype=torch.float64) -> list:
    """Draw batches of these sizes; `inputs` and `targets` are the shapes per sample."""
    draw = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(n, *shape, generator=draw, dtype=dtype) for shape in (inputs, targets))
        for n in sizes
    ]


def samples_of(name: str, count: int):
    """Give a model of the zoo, and inputs and targets of as many samples."""
    model, *pair = ZOO[name]()
    draw = torch.Generator().manual_seed(0)
    shapes = [(count, *one.shape[1:]) for one in pair]
    return model, *(torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)


def images(channels: int, *size: int) -> torch.Tensor:
    return torch.randn(BATCH, channels, *(size or (6, 6)), dtype=torch.float64)


def two_layers(first: nn.Module, second: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(first, nn.Tanh(), second or nn.Identity())


@zoo
def convolution():
    return two_layers(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 2)), images(2)


@zoo
def grouped():
    return two_layers(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 1)), images(4)


@zoo
def depthwise():
    return two_layers(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1)), images(3)


@zoo
def dilated():
    return two_layers(nn.Conv2d(2, 3, 3, dilation=2), nn.Conv2d(3, 1, 1)), images(2)


@zoo
def strided():
    return two_layers(nn.Conv2d(2, 3, 3, stride=(2, 3), padding=1), nn.Conv2d(3, 2, 1)), images(2)


@zoo
def transposed():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1)
    return two_layers(layer, nn.Conv2d(3, 1, 1)), images(2, 3, 3)


@zoo
def grouped_transposed():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    return two_layers(layer, nn.Conv2d(6, 1, 1)), images(4, 3, 3)


@zoo
def same_padding():
    layer = nn.Conv2d(2, 3, 3, padding="same", dilation=(1, 2))
    return two_layers(layer, nn.Conv2d(3, 2, (1, 5), padding="same", groups=1)), images(2)


@zoo
def reflect_padded():
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    return two_layers(layer, nn.Conv2d(3, 1, 3, padding="same", padding_mode="circular")), images(2)


@zoo
def conv1d():
    return two_layers(nn.Conv1d(2, 3, 3), nn.Conv1d(3, 2, 2)), images(2, 7)


@zoo
def conv3d():
    return two_layers(nn.Conv3d(2, 2, 2), nn.Conv3d(2, 1, 2)), images(2, 3, 3, 3)


@zoo
def linear():
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2, bias=False))
    return model, images(5, 4)


@zoo
def embedding():
    model = nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(12, 2))
    return model, torch.randint(0, 6, (BATCH, 4))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@zoo
def attention():
    return SelfAttention(), images(3, 4)


@zoo
def transformer_layer():
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, activation="gelu", batch_first=True)
    return layer, images(3, 4)


@zoo
def group_norm():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)), images(2)


@zoo
def layer_norm():
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)), images(3, 4)


@zoo
def batch_norm():
    norm = nn.BatchNorm2d(3)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Conv2d(3, 1, 1)), images(2)


class LastOfLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


@zoo
def lstm():
    return LastOfLSTM(), images(4, 3)


class Tied(nn.Module):
    """Words in, words out, by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5)
        self.output.weight = self.embedding.weight

    def forward(self, words):
        return self.output(torch.tanh(self.embedding(words)))


@zoo
def tied():
    return Tied(), torch.randint(0, 5, (BATCH, 4))


class Twice(nn.Module):
    """One module under two names, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.again = self.first

    def forward(self, x):
        return self.again(torch.tanh(self.first(x)))


@zoo
def used_twice():
    return Twice(), images(2)


class NormalisedConv2d(nn.Conv2d):
    """A user's own convolution, whose weights have length 1 per output channel in forward."""

    def forward(self, x):
        weight = self.weight / self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return F.conv2d(x, weight, self.bias)


@zoo
def normalised():
    return two_layers(NormalisedConv2d(2, 3, 3), nn.Conv2d(3, 1, 1)), images(2)


class AtRoot(nn.Module):
    """Parameters of the model itself, with no submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(2, 3))
        self.shift = nn.Parameter(torch.randn(()))

    def forward(self, x):
        return torch.sin(x @ self.scale) + self.shift


@zoo
def at_root():
    return AtRoot(), images(4, 2)


class WithUnused(nn.Module):
    """A head that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(2, 2, 3)
        self.unused = nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.used(x))


@zoo
def with_unused():
    return WithUnused(), images(2)


class TiedInOneModule(nn.Module):
    """One parameter under two names of one module."""

    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Parameter(torch.randn(3, 3))
        self.back = self.there

    def forward(self, x):
        return torch.tanh(x @ self.there) @ self.back.T


@zoo
def tied_in_one_module():
    return TiedInOneModule(), images(2, 3)

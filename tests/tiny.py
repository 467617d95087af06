"""The smallest models that show a thing, and strategies over their units."""

import copy

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from paramattr import Scores, Selection, UnitIndex

REDUCER_NAMES = ["input_channel", "kernel", "layer", "output_channel", "scalar"]
"""Those that need no attention, feed-forward block, embedding, adapter or expert."""


def seeded(build, seed: int = 0):
    """Build something from its own random draw, and leave the global one alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class ConvNet(nn.Module):
    """Convolutions, batch norm with statistics that are not the fresh ones, dropout, a linear."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(dropout)
        self.tail = nn.Conv2d(3, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tail(self.dropout(torch.relu(self.norm(self.head(x)))))
        return self.fc(x.mean((2, 3)))


class Tied(nn.Module):
    """Two layers that share a weight, a parameter without dimensions, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.twice = nn.Linear(3, 3)
        self.alias = self.twice

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.first(x))))
        return self.alias(self.second(x)) * self.scale


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


def convnet() -> nn.Module:
    return seeded(ConvNet).eval()


def tied() -> nn.Module:
    return seeded(Tied).eval()


def attention() -> nn.Module:
    return seeded(Attention).eval()


def recurrent() -> nn.Module:
    return seeded(Recurrent).eval()


def transposed() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, groups=2), nn.Tanh(), nn.Conv2d(4, 2, 1, groups=2)
        )
    ).eval()


INPUT_SHAPES = {
    convnet: (3, 2, 6, 6),
    tied: (3, 3),
    attention: (2, 3, 4),
    recurrent: (2, 4, 2),
    transposed: (2, 2, 3, 3),
}
MODELS = list(INPUT_SHAPES)


def inputs_for(build) -> Tensor:
    return seeded(lambda: torch.randn(INPUT_SHAPES[build]), 7)


def moved(model: nn.Module, *, buffers: bool = False, seed: int = 3) -> nn.Module:
    """Copy a model and move every parameter (and, if asked for, every buffer) a little."""
    other = copy.deepcopy(model)

    def move() -> None:
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            if buffers:
                for buffer in other.buffers():
                    buffer.add_(torch.rand(buffer.shape).to(buffer.dtype) + 1)

    seeded(move, seed)
    return other


def takes(build, reducer: str) -> bool:
    """Say whether a reducer finds units in a model."""
    return reducer != "kernel" or build in (convnet, transposed)


@st.composite
def indexes(draw, builds=tuple(MODELS)) -> UnitIndex:
    build = draw(st.sampled_from(builds))
    reducer = draw(st.sampled_from([r for r in REDUCER_NAMES if takes(build, r)]))
    return UnitIndex.of(build(), reducer)


NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@st.composite
def scores_of(draw, index: UnitIndex, numbers=NUMBERS) -> Scores:
    n = len(index)
    values = draw(st.lists(numbers, min_size=n, max_size=n))
    return Scores(index, torch.tensor(values, dtype=torch.float64))


@st.composite
def selections_of(draw, index: UnitIndex, *, least: int = 0) -> Selection:
    numbers = draw(st.sets(st.integers(0, len(index) - 1), min_size=least))
    chosen = torch.zeros(len(index), dtype=torch.bool)
    chosen[sorted(numbers)] = True
    return Selection(index, chosen)


SMALL = UnitIndex.of(seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))), "scalar")
"""Nine units in two layers: enough for arithmetic and sets."""

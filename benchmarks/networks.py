"""Networks of any size for measurements: a decoder, convolutions, linear layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramattr import next_token_cross_entropy, squared_error
from paramattr.objectives import Objective

VOCABULARY = 32_000
HEAD = 64


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each after a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.joint(self.first(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Decoder(nn.Module):
    """A decoder of tokens, whose head is tied to its embedding."""

    def __init__(self, width: int, depth: int, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


SHAPES = {
    15: (256, 8),
    30: (384, 10),
    60: (640, 8),
    124: (768, 14),
    272: (1024, 19),
    514: (1280, 24),
}
"""Millions of a decoder's parameters, about, to its width and depth."""


def network(kind: str, millions: float, length: int) -> tuple[nn.Module, Objective, Tensor, Tensor]:
    """Make a network in evaluation mode, its objective, and one sample.

    Args:
        kind: `"decoder"`, `"convolutions"` or `"linear"`.
        millions: of parameters; of a decoder a key of `SHAPES`.
        length: of a text, or of an image's side.
    """
    torch.manual_seed(0)
    if kind == "decoder":
        tokens = torch.randint(0, VOCABULARY, (1, length))
        model: nn.Module = Decoder(*SHAPES[round(millions)])
        return model.eval(), next_token_cross_entropy, tokens, tokens
    if kind == "convolutions":
        width = max(2, round((millions * 1e6 / 8 / 9) ** 0.5))
        layers = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(8)]
        shape: tuple[int, ...] = (1, width, length, length)
    else:
        width = max(2, round((millions * 1e6 / 8) ** 0.5))
        layers = [nn.Linear(width, width, bias=False) for _ in range(8)]
        shape = (1, width)
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
    return model.eval(), squared_error, torch.rand(shape), torch.rand(shape)


def moved(model: nn.Module, scale: float = 0.02) -> nn.Module:
    """Copy a model, and move each parameter by some noise: the baseline."""
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(noise.mul_(scale * float(parameter.std(correction=0))))
    return other


def samples(count: int, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw samples of the shapes of one, one by one."""
    draw = torch.Generator().manual_seed(2)
    for _ in range(count):
        if inputs.is_floating_point():
            yield (
                torch.rand(inputs.shape, generator=draw),
                torch.rand(targets.shape, generator=draw),
            )
        else:
            tokens = torch.randint(0, VOCABULARY, inputs.shape, generator=draw)
            yield tokens, tokens

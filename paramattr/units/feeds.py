"""Inputs that a block of attention or a feed-forward block may take, to run it alone.

The shapes are tried in turn; what a block's `forward` asks for beyond its main input is filled by
the names that such inputs go by. Values are random: only whether the block runs is asked here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

_SIDE = 4
"""Side of an image of features; a sequence has as many tokens as it has pixels."""
_SECOND = ("key_value_states", "encoder_hidden_states", "memory", "context", "cross_attention_states")
"""Names of a second sequence that is attended to."""
_FIRST = ("query", "queries", "query_states", "q", "input_tensor", "residual", "hidden_states", "x")
_OTHERS = ("key", "value", "keys", "values", "key_states", "value_states", "k", "v")
"""Names of inputs that are the second sequence where the block tells query from key and value."""
_MOST = 96
"""Calls that are tried; each that fails is a fraction of one that runs."""


@dataclass(frozen=True)
class Sizes:
    """What is known of a block's inputs.

    Attributes:
        width: of the main input.
        other: width of the second input, such as an encoder's hidden states.
        image: whether channels come first, as convolutions want them.
        heads: number of heads, or 0.
        size: of one head, or 0.
    """

    width: int
    other: int
    image: bool = False
    heads: int = 0
    size: int = 0


@dataclass(frozen=True)
class Feed:
    """One way to call a block."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def feeds(block: nn.Module, sizes: Sizes, draw: torch.Generator) -> Iterator[Feed]:
    """Yield ways to call a block, the plainest first."""
    signature = inspect.signature(block.forward)
    names = [
        name
        for name, one in signature.parameters.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    if not names:
        return
    needed = {n for n in names if signature.parameters[n].default is inspect.Parameter.empty}
    tried = 0
    rotary = [None] if not _rotates(names) else _rotary_sizes(sizes)
    for shape, size, mask, more in product(
        _shapes(block, sizes), rotary, (False, True), (False, True)
    ):
        given = dict[str, Any]()
        for name in names[1:]:
            value = _filled(name, shape, sizes, size, mask=mask, draw=draw)
            if name in needed or (value is not None and (more or name == "position_embeddings")):
                given[name] = value
        if mask and not any(name.endswith("mask") for name in given):
            continue
        tried += 1
        if tried > _MOST:
            return
        yield Feed((torch.randn(shape, generator=draw),), given)


def _shapes(block: nn.Module, sizes: Sizes) -> list[tuple[int, ...]]:
    d, n = sizes.width, _SIDE
    if sizes.image:
        return [(1, d, side, side) for side in _sides(block)] + [(1, d, n * n)]
    lengths = list(dict.fromkeys([*_lengths(block), n * n]))
    sequences = [(1, length, d) for length in lengths]
    grids = [(1, side, side, d) for side in _sides(block)]
    return [*sequences, *grids, *((1, 2, length, d) for length in lengths), (n * n, d), (1, d, n, n)]


def _lengths(block: nn.Module) -> Iterator[int]:
    """Yield lengths that the block may be bound to: sides of its tables of relative positions."""
    for buffer in block.buffers():
        if not buffer.is_floating_point() and buffer.ndim == 2 and buffer.shape[0] > 1:
            yield int(buffer.shape[0])
    for side in _numbers(block):
        yield prod(side)


def _sides(block: nn.Module) -> list[int]:
    return list(dict.fromkeys([_SIDE, *(side[0] for side in _numbers(block)), 2 * _SIDE]))


def _numbers(block: nn.Module) -> list[tuple[int, int]]:
    found = []
    for module in block.modules():
        for name, value in vars(module).items():
            if "window" in name or "resolution" in name or "feat_size" in name:
                pair = (value, value) if isinstance(value, int) else value
                if isinstance(pair, tuple | list) and len(pair) == 2:
                    if all(isinstance(n, int) and 1 < n <= 64 for n in pair):
                        found.append((int(pair[0]), int(pair[1])))
    return list(dict.fromkeys(found))[:3]


def _rotates(names: list[str]) -> bool:
    words = ("position_embeddings", "rotary_pos_emb", "rope", "freqs_cis", "rotary_emb")
    return any(name in words for name in names)


def _rotary_sizes(sizes: Sizes) -> list[int | None]:
    size = sizes.size or sizes.width
    halves = [size, size // 2, size // 4, size * 3 // 4]
    return [None, *dict.fromkeys(n for n in halves if n)]


def _filled(
    name: str,
    shape: tuple[int, ...],
    sizes: Sizes,
    rotary: int | None,
    *,
    mask: bool,
    draw: torch.Generator,
) -> Any:
    tokens = shape[-2] if shape[-1] == sizes.width else prod(shape[2:])
    if name in _SECOND or (name in _OTHERS and sizes.other != sizes.width):
        return torch.randn(*shape[:-1], sizes.other, generator=draw)
    if name in (*_FIRST, *_OTHERS):
        return torch.randn(shape, generator=draw)
    if name in ("position_embeddings", "rotary_emb") and rotary:
        lead = () if len(shape) == 2 else (1,)
        angle = torch.rand(*lead, tokens, rotary, generator=draw)
        return angle.cos(), angle.sin()
    if name in ("rotary_pos_emb", "rope") and rotary:
        return torch.rand(tokens, rotary, generator=draw)
    if name.endswith("mask") and mask:
        return torch.zeros(1, 1, tokens, tokens)
    return _counted(name, tokens, sizes, draw)


def _counted(name: str, tokens: int, sizes: Sizes, draw: torch.Generator) -> Any:
    side = round(tokens**0.5)
    if name in ("position_ids", "cache_position"):
        ids = torch.arange(tokens)
        return ids if name == "cache_position" else ids[None]
    if name == "alibi":
        return torch.randn(max(sizes.heads, 1), 1, tokens, generator=draw)
    if name == "cu_seqlens":
        return torch.tensor([0, tokens], dtype=torch.int32)
    if name in ("max_seqlen",):
        return tokens
    if name in ("height", "width", "H", "W", "h", "w"):
        return side
    if name in ("feat_size", "hw_shape", "size", "input_dimensions", "resolution"):
        return (side, side)
    if name in ("output_attentions", "use_cache"):
        return False
    if name == "layer_idx":
        return 0
    return None

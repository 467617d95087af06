"""The sandbox: a module runs alone, on random inputs, and nothing of the user's is touched.

The module is a copy with parameters of its own, on the CPU. It runs apart from the caller's random
state, gradients and warnings. The shapes of inputs are tried in turn; what `forward` asks for
beyond its main input is filled by the names that such inputs go by. Values are random: only whether
the module runs, and what moves with what, is asked here.
"""

from __future__ import annotations

import copy
import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paramattr.parameters import is_shard

_SIDE = 4
"""Side of an image of features; a sequence has as many tokens as it has pixels."""
_MOST = 160
"""Calls that are tried; each that fails is a fraction of one that runs."""
_LONGEST = 1024
"""Tokens of a window, at most."""
_FIRST = {"query", "queries", "query_states", "query_tensor", "q", "x", "hidden_states"}
_FIRST |= {"input_tensor", "layer_input", "residual"}
_SECOND = {"key_value_states", "encoder_hidden_states", "cross_attention_states"}
_SECOND |= {"memory", "context"}
_KEYS = {"key", "keys", "key_states", "key_tensor", "k"}
_KEYS |= {"value", "values", "value_states", "value_tensor", "v"}
_ROTARY = {"position_embeddings", "rotary_pos_emb", "rotary_emb", "rope", "freqs_cis"}
_RELATIVE = {"position_embeddings", "relative_position_embeddings", "pos_embed", "pos_emb"}
_GIVEN = {"position_embeddings", "relative_position_embeddings"}
"""Names of inputs: the main sequence, a second one, keys and values, angles, distances; and those
that are given even where they may be left out."""
_MASKS = (None, 0.0, 1.0)
"""No mask, nothing added, everything seen."""


@contextmanager
def aside() -> Iterator[None]:
    """Run apart from the caller's random state, gradients and warnings."""
    dtype = torch.get_default_dtype()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),  # without it, attention takes a path that runs no submodule
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def copied(
    block: nn.Module,
    parameter: Callable[[nn.Parameter], nn.Parameter],
    new: dict[int, nn.Parameter],
) -> nn.Module:
    """Copy a block, with new parameters, on the CPU, without the user's hooks.

    Args:
        block: module to copy.
        parameter: function from a parameter to the new one in its place.
        new: table that is filled: `id` of each parameter to the new one.
    """
    memo: dict[int, Any] = {}
    for own in block.parameters():
        if own.is_floating_point():
            new[id(own)] = memo[id(own)] = parameter(own)

    def copy_of(module: nn.Module) -> None:
        for child in module.children():
            if id(child) not in memo:
                copy_of(child)
        kind = type(module)
        if kind.__bases__[0].__name__ == "FSDPModule":  # fully_shard's own class refuses copies
            kind = kind.__bases__[1]
        memo[id(module)] = one = kind.__new__(kind)
        for name, value in _state(module).items():
            hooks = name.endswith("_hooks")
            one.__dict__[name] = copy.deepcopy(_of_torch(value) if hooks else _plain(value), memo)
        for name, value in one._buffers.items():
            one._buffers[name] = _plain(value)
        _eager(getattr(one, "config", None))

    copy_of(block)
    found: nn.Module = memo[id(block)]
    return found


def _state(module: nn.Module) -> dict[str, Any]:
    """List a module's attributes, without what would run the module that it is copied from."""
    # What fully_shard keeps there holds process groups and all blocks.
    state = {n: v for n, v in vars(module).items() if not n.startswith("__composable_api")}
    state.pop("_compiled_call_impl", None)
    if state.pop("_old_forward", None) is not None:  # accelerate moves weights around a call
        del state["forward"]
        state.pop("_hf_hook", None)
    if isinstance(state.get("forward"), FunctionType):
        raise TypeError("a function in place of forward may hold the module itself")
    return state


def _plain(value: Any) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or is_shard(value):
        return value
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value.clone()


def _of_torch(hooks: Any) -> Any:
    # Weight norm, spectral norm and pruning of torch work by hooks; others are the user's.
    kept = {n: h for n, h in hooks.items() if type(h).__module__.startswith("torch.nn.utils")}
    return type(hooks)(kept)


def _eager(config: Any) -> None:
    # Fused kernels may need another device or dtype. The configuration is the copy's own.
    if hasattr(config, "_attn_implementation"):
        config._attn_implementation = "eager"


def ends_and_middle(count: int) -> list[int]:
    """List the places that stand for all of `count`: the first, the one in the middle, the last."""
    return sorted({0, count // 2, count - 1})


@dataclass(frozen=True)
class Sizes:
    """The sizes of a block's inputs, as far as they are known.

    Attributes:
        width: width of the main input.
        other: width of the second input, such as an encoder's hidden states.
        value: width of the input that values are made of, where it is one of its own.
        image: whether channels come first, as convolutions want them.
        heads: number of heads, or 0.
        size: size of one head, or 0.
    """

    width: int
    other: int
    value: int
    image: bool = False
    heads: int = 0
    size: int = 0


def inputs_of(
    block: nn.Module, sizes: Sizes, draw: torch.Generator
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Yield main inputs and keyword arguments to call a block with, the plainest first."""
    signature = inspect.signature(block.forward)
    names = [
        name
        for name, one in signature.parameters.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    if not names:
        return
    needed = {n for n in names if signature.parameters[n].default is inspect.Parameter.empty}
    ways = _angles(names, sizes)
    masked = any(name.endswith("mask") for name in names)
    tried = product(_shapes(block, sizes), (False, True), _MASKS if masked else (None,), ways)
    for shape, more, mask, angles in islice(tried, _MOST):
        given = dict[str, Any]()
        for name in names[1:]:
            value = _filled(name, shape, sizes, angles, mask=mask, draw=draw)
            if name == "rel_embeddings":
                value = _distances(block, sizes.width, draw)
            if name in needed or (value is not None and (more or name in _GIVEN)):
                given[name] = value
        yield torch.randn(shape, generator=draw), given


def _shapes(block: nn.Module, sizes: Sizes) -> list[tuple[int, ...]]:
    d, n = sizes.width, _SIDE
    if sizes.image:
        return [(1, d, side, side) for side in _sides(block)] + [(1, d, n * n)]
    lengths = list(dict.fromkeys([n * n, *_lengths(block), n * n + 1]))  # one more for a class
    sequences = [(1, length, d) for length in lengths]
    grids = [(1, side, side, d) for side in _sides(block)]
    nested = [(1, 2, length, d) for length in lengths]
    others = [(1, d, n, n), (1, 16 * n * n, d)]
    return [*sequences, *grids, (n * n, d), (n * n, 1, d), *nested, *others]


def _lengths(block: nn.Module) -> Iterator[int]:
    """Yield lengths that the block may be bound to: sides of its tables of relative positions."""
    for buffer in block.buffers():
        if buffer.dtype in (torch.int32, torch.int64) and buffer.ndim == 2:
            yield min(int(buffer.shape[0]), _LONGEST)
    for side in _numbers(block):
        yield prod(side)


def _sides(block: nn.Module) -> list[int]:
    return list(dict.fromkeys([_SIDE, *(side[0] for side in _numbers(block)), 2 * _SIDE]))


def _numbers(block: nn.Module) -> list[tuple[int, int]]:
    """List the sides of windows that modules of the block tell of."""
    found = []
    for module in block.modules():
        for name, value in vars(module).items():
            told = any(word in name for word in ("window", "resolution", "feat_size"))
            pair = (value, value) if isinstance(value, int) else value
            if told and isinstance(pair, tuple | list) and len(pair) == 2:
                found += [tuple(pair)] if all(n in range(2, 65) for n in pair) else []
    return list(dict.fromkeys(found))[:3]


def _distances(block: nn.Module, width: int, draw: torch.Generator) -> Tensor | None:
    """Make DeBERTa's table of distances, of the size that a module inside the block asks for."""
    sizes = [size for m in block.modules() if (size := getattr(m, "pos_ebd_size", 0))]
    return torch.randn(2 * sizes[0], width, generator=draw) if sizes else None


@dataclass(frozen=True)
class _Angles:
    """The form in which positions are told: its kind, such as a cosine and a sine, and its size."""

    kind: str
    size: int = 0


def _angles(names: list[str], sizes: Sizes) -> list[_Angles]:
    found = [_Angles("none")]
    size = sizes.size or sizes.width
    if any(name in _ROTARY for name in names):
        halves = [n for n in dict.fromkeys([size, size // 2, size // 4, size * 3 // 4]) if n]
        found += [_Angles(kind, n) for kind in ("pair", "plain pair", "tensor") for n in halves]
        found.append(_Angles("complex", size // 2))
    if any(name in _RELATIVE for name in names):
        found.append(_Angles("distances", sizes.width))
    return found


def _filled(
    name: str,
    shape: tuple[int, ...],
    sizes: Sizes,
    angles: _Angles,
    *,
    mask: float | None,
    draw: torch.Generator,
) -> Any:
    tokens = _tokens(shape, sizes)
    width = sizes.value if name.startswith("v") else sizes.other
    if name in _SECOND or (name in _KEYS and width != sizes.width):
        return torch.randn(*shape[:-1], width, generator=draw)
    if name in _FIRST | _KEYS:
        return torch.randn(shape, generator=draw)
    if name in _ROTARY and angles.kind not in ("none", "distances"):
        lead = (1,) if angles.kind in ("pair", "complex") and len(shape) > 2 else ()
        angle = torch.rand(*lead, tokens, angles.size, generator=draw)
        if angles.kind == "complex":
            return torch.polar(torch.ones_like(angle), angle)
        return angle if angles.kind == "tensor" else (angle.cos(), angle.sin())
    if name in _RELATIVE and angles.kind == "distances":
        return torch.randn(1, 2 * tokens - 1, angles.size, generator=draw)
    if name.endswith("mask"):
        whole = (1, 1, tokens, tokens) if mask == 0 or name != "mask" else (1, tokens)
        return None if mask is None else torch.full(whole, mask)
    return _counted(name, tokens, sizes, draw)


def _tokens(shape: tuple[int, ...], sizes: Sizes) -> int:
    if shape[-1] != sizes.width:
        return prod(shape[2:])
    if len(shape) == 3 and shape[1] == 1:  # the batch comes second
        return shape[0]
    return prod(shape[1:-1]) if len(shape) == 4 and shape[1] == shape[2] else shape[-2]


def _counted(name: str, tokens: int, sizes: Sizes, draw: torch.Generator) -> Any:
    side = round(tokens**0.5)
    if name in ("position_ids", "cache_position"):
        ids = torch.arange(tokens)
        return ids if name == "cache_position" else ids[None]
    if name == "alibi":
        return torch.randn(max(sizes.heads, 1), 1, tokens, generator=draw)
    if name == "cu_seqlens":
        return torch.tensor([0, tokens], dtype=torch.int32)
    if name == "max_seqlen":
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

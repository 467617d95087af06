"""The probe: a block is run alone, a unit of it is changed, and what reads the unit is looked at.

Names and sizes propose which rows of a block feed which columns of its last projection. Here a
proposal is held against the block's own forward pass. A unit is right if its rows reach its own
columns and no others, and if its columns are zero when its rows are. The common scale of a norm in
between may couple units, as every norm behind a block does.

The block is a copy with random parameters of its own, on the CPU, in evaluation mode: the model's
values, devices and shards play no part, and nothing of the model is touched.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paramattr.parameters import is_shard
from paramattr.units.feeds import Feed, Sizes, feeds

_TOLERANCE = 1e-6
"""Of float32, relative to the largest entry."""
_NOTHING = 1e-5
"""Of the largest entry, what a unit that is off may leave: an activation may miss 0 by a little."""
_PERIOD = 65_521
"""Random numbers drawn per block; a prime, so that no two rows are alike."""
_INPUTS = 2
"""Inputs of one shape that a block is run on before no proposal is right."""
_PLACE = ("training", "layer_idx", "layer_id", "layer_number")
"""Attributes that tell a block's place in the model, and not how it works."""
_STRONG = 8.0
"""Factor of a change, so that a norm over thousands of entries moves visibly."""


@dataclass(frozen=True)
class Proposal:
    """Rows and columns that may be units of one block.

    Attributes:
        count: of the units.
        rows: parameters that make the units, each with the unit of each entry.
        columns: the unit of each input of the block's last projection.
        whole: the rows of which one alone must reach all columns of its unit, as those of a
            head's keys do; so that two heads are not taken for one. Empty if there are none.
    """

    count: int
    rows: tuple[tuple[nn.Parameter, Int[Tensor, "..."]], ...]
    columns: Int[Tensor, "columns"]
    whole: tuple[tuple[nn.Parameter, Int[Tensor, "rows"], int], ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a block is looked at, and how it may be called.

    Attributes:
        block: the module that is run.
        out: path of the last projection, relative to the block.
        channels: the dimension of its input that counts the columns.
        sizes: of its inputs.
    """

    block: nn.Module
    out: str
    channels: int
    sizes: Sizes


class Judge:
    """Holds proposals against the blocks of one model; blocks of one make are probed once."""

    def __init__(self) -> None:
        self._found: dict[object, int | None] = {}

    def first_right(self, proposals: list[Proposal], place: Place) -> int | None:
        """Return the number of the first proposal that the block's forward pass bears out.

        Returns:
            None if there is none, or if the block cannot be run alone.
        """
        make = _make(place, proposals)
        if make not in self._found:
            with aside():
                self._found[make] = _first_right(proposals, place)
        return self._found[make]


def _first_right(proposals: list[Proposal], place: Place) -> int | None:
    try:
        probe = _Probe(place)
        for _ in probe.runs():
            for number, proposal in enumerate(proposals):
                if probe.bears_out(proposal):
                    return number
    except Exception:  # whatever a foreign module raises: it cannot be copied, or called
        return None
    return None


def _make(place: Place, proposals: list[Proposal]) -> object:
    """Tell blocks apart by class, sizes and settings, and not by their place in the model."""
    parts = tuple(
        (
            path,
            type(module),
            tuple((n, tuple(p.shape)) for n, p in module.named_parameters(recurse=False)),
            tuple(
                (name, _setting(value))
                for name, value in vars(module).items()
                if name not in _PLACE
            ),
        )
        for path, module in place.block.named_modules()
    )
    return parts, place.out, place.sizes, tuple(p.count for p in proposals)


def _setting(value: object) -> object:
    if isinstance(value, bool | int | float | str | tuple | list | set):
        return repr(value)
    # Configurations and functions are shared by the blocks that they are alike in.
    return None if isinstance(value, Tensor | dict | nn.Module) else id(value)


class _Probe:
    def __init__(self, place: Place) -> None:
        self._draw = torch.Generator().manual_seed(0)
        self._numbers = torch.randn(_PERIOD, generator=self._draw)
        self._new: dict[int, nn.Parameter] = {}
        self._block = copied(place.block, self._parameter, self._new)
        self._block.eval()
        self._read, self._channels = list[Tensor](), place.channels
        self._block.get_submodule(place.out).register_forward_pre_hook(
            lambda module, args: self._read.append(args[0])
        )
        self._feed, self._sizes = Feed(()), place.sizes

    def runs(self) -> Iterator[None]:
        """Find inputs that the block takes, a few of each shape: one may show more than another."""
        found = Counter[torch.Size]()
        for feed in feeds(self._block, self._sizes, self._draw):
            self._feed, shape = feed, feed.args[0].shape
            if found[shape] < _INPUTS and self._repeats():
                found[shape] += 1
                yield

    def bears_out(self, proposal: Proposal) -> bool:
        """Return whether a proposal holds for some of its units, the first and last among them."""
        try:
            return self._silences(proposal) and (
                self._routes(proposal) or self._without_norms(lambda: self._routes(proposal))
            )
        except Exception:  # with changed values the block may take another way
            return False

    def _repeats(self) -> bool:
        try:
            first, second = self._columns(), self._columns()
        except Exception:
            return False
        return torch.equal(first, second) and bool(first.isfinite().all())

    def _columns(self) -> Float[Tensor, "columns entries"]:
        self._read.clear()
        self._block(*self._feed.args, **self._feed.kwargs)
        read = [one.detach().movedim(self._channels, 0).flatten(1) for one in self._read]
        return torch.cat(read, 1)

    def _routes(self, proposal: Proposal) -> bool:
        before = self._columns()
        if len(before) != len(proposal.columns):
            return False
        for unit in _some(proposal.count):
            own, reached = proposal.columns == unit, torch.zeros(len(before), dtype=torch.bool)
            for parameter, labels in proposal.rows:
                reached |= self._moved(before, parameter, labels == unit)
            if not torch.equal(reached, own):
                return False
        return not proposal.whole or any(
            torch.equal(
                self._moved(before, parameter, _row(parameter, dimension, int(row))),
                proposal.columns == proposal.columns[0],
            )
            for parameter, rows, dimension in proposal.whole
            for row in rows
        )

    def _silences(self, proposal: Proposal) -> bool:
        for unit in _some(proposal.count):
            off = {id(p): (labels == unit, 0.0) for p, labels in proposal.rows}
            with self._scaled(off):
                left = self._columns().abs().amax(1)
            silent, own = left <= _NOTHING * left.max(), proposal.columns == unit
            if not bool(silent[own].all()) or (bool((~own).any()) and bool(silent[~own].all())):
                return False
        return True

    def _moved(self, before: Tensor, parameter: nn.Parameter, where: Tensor) -> Bool[Tensor, "n"]:
        with self._scaled({id(parameter): (where, -_STRONG)}):
            change = (self._columns() - before).abs().amax(1)
        return change > _TOLERANCE * before.abs().max()

    @contextmanager
    def _scaled(self, changes: dict[int, tuple[Tensor, float]]) -> Iterator[None]:
        kept = {number: self._new[number].detach() for number in changes}
        for number, (where, factor) in changes.items():
            self._new[number].data = torch.where(where, factor * kept[number], kept[number])
        try:
            yield
        finally:
            for number, values in kept.items():
                self._new[number].data = values

    def _without_norms(self, look: Callable[[], bool]) -> bool:
        norms = [
            (parent, name, child)
            for parent in self._block.modules()
            for name, child in parent.named_children()
            if "norm" in type(child).__name__.lower()
        ]
        for parent, name, _ in norms:
            setattr(parent, name, _Through())
        try:
            return bool(norms) and look()
        finally:
            for parent, name, child in norms:
                setattr(parent, name, child)

    def _parameter(self, like: nn.Parameter) -> nn.Parameter:
        count = like.numel()
        start = int(torch.randint(_PERIOD, (), generator=self._draw))
        numbers = self._numbers.roll(start).repeat(count // _PERIOD + 1)[:count]
        fan = max(like.numel() // max(like.shape[0], 1), 1) if like.ndim > 1 else 4
        return nn.Parameter(numbers.reshape(like.shape) / fan**0.5)


class _Through(nn.Module):
    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return x


def _some(count: int) -> list[int]:
    return sorted({0, count // 2, count - 1})


def _row(parameter: nn.Parameter, dimension: int, row: int) -> Bool[Tensor, "..."]:
    shape = [1] * parameter.ndim
    shape[dimension] = parameter.shape[dimension]
    return (torch.arange(shape[dimension]) == row).reshape(shape)


def copied(
    block: nn.Module,
    parameter: Callable[[nn.Parameter], nn.Parameter],
    new: dict[int, nn.Parameter],
) -> nn.Module:
    """Copy a block, with new parameters, on the CPU, without the user's hooks."""
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

"""The probe: a block runs alone, a unit of it is changed, and the columns that move are its own.

Names and sizes propose which rows of a block feed which columns of its last projection. Here a
proposal is held against the block's own forward pass. A unit is right if its rows reach its own
columns and no others, and if its columns are zero when its rows are. The common scale of a norm in
between may couple units, as every norm behind a block does.

The block is a copy with random parameters of its own, in evaluation mode (see
`paramattr.units.sandbox`): the model's values, devices and shards play no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paramattr.units.sandbox import Sizes, aside, copied, ends_and_middle, inputs_of

_TOLERANCE = 1e-6
"""Smallest change that counts, as a share of the largest entry: the rounding of float32."""
_NOTHING = 1e-5
"""Share of the largest entry that a unit may leave when it is off: an activation may miss 0."""
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
        count: number of units.
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
    """The place where a block is looked at, and the sizes of what it takes.

    Attributes:
        block: the module that is run.
        out: path of the last projection, relative to the block.
        channels: the dimension of its input that counts the columns.
        sizes: sizes of its inputs.
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
        self._input, self._kwargs = torch.empty(0), dict[str, Any]()
        self._sizes = place.sizes

    def runs(self) -> Iterator[None]:
        """Find inputs that the block takes, a few of each shape: one may show more than another."""
        found = Counter[torch.Size]()
        for x, kwargs in inputs_of(self._block, self._sizes, self._draw):
            self._input, self._kwargs, shape = x, kwargs, x.shape
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
        self._block(self._input, **self._kwargs)
        read = [one.detach().movedim(self._channels, 0).flatten(1) for one in self._read]
        return torch.cat(read, 1)

    def _routes(self, proposal: Proposal) -> bool:
        before = self._columns()
        if len(before) != len(proposal.columns):
            return False
        for unit in ends_and_middle(proposal.count):
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
        for unit in ends_and_middle(proposal.count):
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


def _row(parameter: nn.Parameter, dimension: int, row: int) -> Bool[Tensor, "..."]:
    shape = [1] * parameter.ndim
    shape[dimension] = parameter.shape[dimension]
    return (torch.arange(shape[dimension]) == row).reshape(shape)

"""Attention heads as units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.units.blocks import (
    ATTENTION,
    HEAD_BIASES,
    HEADS,
    KEY_VALUE_HEADS,
    TORCH_ATTENTION,
    AttentionNames,
    Projections,
    Side,
    group_of,
    joined,
    unlabelled,
)
from paramattr.units.grid import UNKNOWN, Answer, OfModel, Reducer, Units, along, looked_up


@OfModel
def attention_head(model: nn.Module) -> Reducer:
    """Take each attention head as a unit: its query, key and value rows, and its output columns.

    The group is the path of the block and the position is `(head,)`. Query heads that share a key
    and a value form one unit, with the position `(key-value group,)`. The biases of query, key and
    value belong to their heads; the output bias belongs to no head.

    The reducer knows `nn.MultiheadAttention` and the names in `paramattr.units.blocks.ATTENTION`.
    Weights of other modules whose class is named `...Attention` are left out with a warning.
    """
    answers: dict[str, Answer] = {}
    projections = Projections(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        block = _block(model, path, module, projections, names)
        answers |= {n: a for n, a in block.items() if answers.get(n) in (None, UNKNOWN)}
    answers |= dict.fromkeys(unlabelled(model, ("Attention",), answers), UNKNOWN)
    return looked_up(answers)


@dataclass(frozen=True)
class _Count:
    """The numbers of query heads and of key-value heads of a block."""

    heads: int
    groups: int

    def of_rows(self, parts: str, size: int, *, interleaved: bool) -> Int[Tensor, "size"] | None:
        """Return the group of each of `size` rows, or None if they do not divide evenly."""
        if interleaved:
            return _even(size, self.groups)
        shares = [self.heads if part == "q" else self.groups for part in parts]
        sizes = [share * size // sum(shares) for share in shares]
        if sum(sizes) != size or any(rows % self.groups for rows in sizes):
            return None
        return torch.cat([torch.arange(rows) // (rows // self.groups) for rows in sizes])


def _block(
    model: nn.Module,
    path: str,
    module: nn.Module,
    projections: Projections,
    names: dict[int, str],
) -> dict[str, Answer]:
    if isinstance(module, nn.MultiheadAttention):
        return _of_torch(path, module, projections, names)
    for naming in ATTENTION:
        weights = [projections.weight(joined(path, name)) for name, _ in naming.rows]
        out = projections.weight(joined(path, naming.columns))
        if out is None or None in weights or not hasattr(module, naming.having or "forward"):
            continue
        return _of_names(model, path, module, naming, projections)
    return {}


def _of_torch(
    path: str, module: nn.MultiheadAttention, projections: Projections, names: dict[int, str]
) -> dict[str, Answer]:
    count = _Count(module.num_heads, module.num_heads)
    sides = []
    for attribute, parts, dimension in TORCH_ATTENTION:
        parameter = getattr(module, attribute, None)
        if parameter is not None and id(parameter) in names:
            side = Side(names[id(parameter)], tuple(parameter.shape), dimension)
            sides.append((side, count.of_rows(parts, side.size, interleaved=False)))
    columns = projections.inputs(joined(path, "out_proj"))
    sides += [(side, _even(side.size, count.groups)) for side in columns]
    return _answers(group_of(path, module), count.groups, sides)


def _of_names(
    model: nn.Module,
    path: str,
    module: nn.Module,
    naming: AttentionNames,
    projections: Projections,
) -> dict[str, Answer]:
    rows = [
        (side, parts)
        for name, parts in naming.rows
        for side in projections.outputs(joined(path, name))
    ]
    columns = list(projections.inputs(joined(path, naming.columns)))
    count = _count(model, path, naming, rows, columns)
    if count is None:
        weights = [side.name for side, _ in rows if len(side.shape) > 1]
        return dict.fromkeys([*weights, *(side.name for side in columns)], UNKNOWN)
    sides = [
        (side, count.of_rows(parts, side.size, interleaved=naming.interleaved))
        for side, parts in rows
    ]
    sides += [(side, _even(side.size, count.groups)) for side in columns]
    held = {n: p for n, p in model.named_parameters() if n.startswith(path)}
    for name in (joined(path, bias) for bias in HEAD_BIASES):
        bias = held.get(name)
        if bias is not None and bias.ndim == 2 and bias.shape[1] == count.heads:
            side = Side(name, tuple(bias.shape), 1)
            sides.append((side, _even(count.heads, count.groups)))
    return _answers(group_of(path, module), count.groups, sides)


def _count(
    model: nn.Module,
    path: str,
    naming: AttentionNames,
    rows: list[tuple[Side, str]],
    columns: list[Side],
) -> _Count | None:
    """Read the numbers of heads from the block, or else from the nearest configuration."""
    inner = [joined(path, name).rpartition(".")[0] for name, _ in naming.rows]
    places = [model.get_submodule(p) for p in dict.fromkeys([path, *inner])]
    outer = [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)] if path else []
    above = [model.get_submodule(p) for p in dict.fromkeys([*outer, ""])]
    configs = [m.config for m in (*places, *above) if getattr(m, "config", None) is not None]
    heads = _first(HEADS, [*places, *configs])
    if heads is None or columns[0].size % heads:
        return None
    size = {parts: side.size for side, parts in reversed(rows)}  # the weights come first
    groups = _first(KEY_VALUE_HEADS, [*places, *configs])
    if set(size) == {"q", "k", "v"}:
        inferred = heads * size["k"] // size["q"]
        if groups is None or (size["k"] * heads != size["q"] * groups and inferred == heads):
            groups = inferred
    groups = groups or heads
    count = _Count(heads, groups)
    whole = columns[0].size * (heads + 2 * groups)  # rows of all parts, times the number of heads
    fit = all(
        count.of_rows(parts, side.size, interleaved=naming.interleaved) is not None
        and (parts != "qkv" or side.size * heads == whole)
        for side, parts in rows
    )
    return count if fit and heads % groups == 0 else None


def _first(attributes: tuple[str, ...], places: list[object]) -> int | None:
    for place in places:
        for attribute in attributes:
            value = getattr(place, attribute, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _even(size: int, groups: int) -> Int[Tensor, "size"] | None:
    if size % groups:
        return None
    return torch.arange(size) // (size // groups)


def _answers(group: str, count: int, sides: list[tuple[Side, Tensor | None]]) -> dict[str, Answer]:
    return {
        side.name: UNKNOWN
        if labels is None
        else Units(group, (count,), along(labels, side.dimension, len(side.shape)))
        for side, labels in sides
    }

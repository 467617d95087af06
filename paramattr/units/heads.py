"""Attention heads as units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from paramattr.units.grid import UNKNOWN, Answer, OfModel, Reducer, along
from paramattr.units.layouts import Projections, Side, group_of, joined, of_blocks, units_of
from paramattr.units.probe import Judge, Place, Proposal
from paramattr.units.sandbox import Sizes


@dataclass(frozen=True)
class AttentionNames:
    """The names that one family of models gives to the projections of an attention block.

    Attributes:
        rows: paths of the projections into heads, relative to the block, each with the parts that
            it makes: `q`, `k`, `v`, or several of them fused.
        columns: path of the projection out of the heads, relative to the block.
        interleaved: whether fused parts are stored head by head, `(heads, parts, size)`, rather
            than part by part, `(parts, heads, size)`.
    """

    rows: tuple[tuple[str, str], ...]
    columns: str
    interleaved: bool = False


def _apart(q: str, k: str, v: str, out: str) -> AttentionNames:
    return AttentionNames(((q, "q"), (k, "k"), (v, "v")), out)


ATTENTION = (
    _apart("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama, Mistral, Mixtral, Qwen, ViT
    _apart("q_proj", "k_proj", "v_proj", "out_proj"),  # BART, OPT, CLIP, Whisper, GPT-J
    _apart("q_proj", "k_proj", "v_proj", "dense"),  # Phi
    _apart("q_proj", "k_proj", "v_proj", "Wo"),  # ModernBERT's decoder
    _apart("q_proj", "k_proj", "v_proj", "projection_layer"),  # InternVL
    _apart("q_proj.linear", "k_proj.linear", "v_proj.linear", "o_proj.linear"),  # Moshi
    _apart("linear_q", "linear_k", "linear_v", "linear_out"),  # Conformer
    _apart("self.query", "self.key", "self.value", "output.dense"),  # BERT, RoBERTa, Swin
    _apart("attention.query", "attention.key", "attention.value", "output.dense"),  # older ViT
    _apart("self.query_proj", "self.key_proj", "self.value_proj", "output.dense"),  # DeBERTa
    _apart("query", "key", "value", "dense"),  # ALBERT
    _apart("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT, XLM
    _apart("q", "k", "v", "o"),  # T5, MPNet
    _apart("to_q", "to_k", "to_v", "to_out.0"),  # diffusers
    _apart("wq", "wk", "wv", "wo"),  # Llama as it was published
    AttentionNames((("q_attn", "q"), ("c_attn", "kv")), "c_proj"),  # GPT-2, cross-attention
    AttentionNames((("c_attn", "qkv"),), "c_proj"),  # GPT-2, GPT-BigCode
    AttentionNames((("query_key_value", "qkv"),), "dense", interleaved=True),  # GPT-NeoX, Bloom
    AttentionNames((("qkv_proj", "qkv"),), "o_proj"),  # Phi-3
    AttentionNames((("qkv_proj", "qkv"),), "out_proj", interleaved=True),  # MiniMax
    AttentionNames((("qkv", "qkv"),), "proj"),  # timm, SAM, Qwen-VL
    AttentionNames((("q", "q"), ("kv", "kv")), "proj"),  # PVT, Twins
    AttentionNames((("qk", "qk"), ("v", "v")), "proj"),  # TNT, VOLO
    _apart("q", "k", "v", "proj"),  # CaiT
    AttentionNames((("qkv", "qkv"),), "projection"),  # BLIP
    AttentionNames((("Wqkv", "qkv"),), "Wo"),  # ModernBERT
    AttentionNames((("Wqkv", "qkv"),), "out_proj"),  # MPT
)

TORCH_ATTENTION = (  # nn.MultiheadAttention: attribute, parts, dimension
    ("in_proj_weight", "qkv", 0),
    ("in_proj_bias", "qkv", 0),
    ("q_proj_weight", "q", 0),
    ("k_proj_weight", "k", 0),
    ("v_proj_weight", "v", 0),
    ("bias_k", "k", 2),
    ("bias_v", "v", 2),
)

HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads")
"""Attributes of a block or configuration that count its query heads."""

KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")
"""Attributes that count its key-value heads."""

HEAD_BIASES = (
    "relative_attention_bias.weight",
    "relative_position_bias_table",
    "relative_position_bias.relative_position_bias_table",
)
"""Parameters of a block with one column per head."""

ROW_BIASES = ("q_bias", "k_bias", "v_bias")
"""Biases of a block, apart from its projections, with one entry per row."""


@OfModel
def attention_head(model: nn.Module) -> Reducer:
    """Take each attention head as a unit: its query, key and value rows, and its output columns.

    The group is the path of the block and the position is `(head,)`. Query heads that share a key
    and a value form one unit, with the position `(key-value group,)`. The biases of query, key and
    value belong to their heads; the output bias belongs to no head.

    `nn.MultiheadAttention` is known by class. Of other blocks, the names in
    `paramattr.units.heads.ATTENTION` and the number of heads propose what the heads are; a block
    is known if a probe of its own forward pass bears a proposal out (`paramattr.units.probe`). The
    weights of other blocks, and of other modules whose class is named `...Attention`, are left out
    with a warning.
    """
    projections, judge = Projections(model), Judge()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    blocks = (
        _of_torch(path, module, projections, names)
        if isinstance(module, nn.MultiheadAttention)
        else _of_names(model, path, module, projections, judge)
        for path, module in model.named_modules()
    )
    return of_blocks(model, blocks, ("Attention",))


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
    answers = units_of(group_of(path, module), count.groups, sides)
    if type(module).forward is not nn.MultiheadAttention.forward:  # a subclass may do as it likes
        return dict.fromkeys(answers, UNKNOWN)
    return answers


def _of_names(
    model: nn.Module, path: str, module: nn.Module, projections: Projections, judge: Judge
) -> dict[str, Answer]:
    """Ask each naming that fits for its proposals; the first that is borne out gives the heads."""
    unknown: dict[str, Answer] = {}
    for naming in ATTENTION:
        found = [projections.weight(joined(path, name)) for name, _ in naming.rows]
        out, weights = projections.weight(joined(path, naming.columns)), [w for w in found if w]
        if out is None or len(weights) < len(found):
            continue
        unknown |= dict.fromkeys([w.name for w in (*weights, out)], UNKNOWN)
        rows = [
            (side, parts)
            for name, parts in naming.rows
            for side in projections.outputs(joined(path, name))
        ]
        inputs = list(projections.inputs(joined(path, naming.columns)))
        count = _count(model, path, naming, rows, inputs[0].size)
        if count is None:
            continue
        block = _Block(dict(model.named_parameters()), path, naming, rows, inputs[0].size, count)
        ways = [labels for order in block.orders() if (labels := block.labels(*order))]
        if not ways:
            continue
        proposals = [block.proposal(*labels) for labels in ways]
        of = {part: w for w, (_, parts) in zip(weights, naming.rows, strict=True) for part in parts}
        query, key, value = (of[part].size("input") for part in "qkv")
        image, size = len(of["q"].shape) > 2, block.size // count.heads
        sizes = Sizes(query, key, value, image, count.heads, size)
        place = Place(module, naming.columns, 1 if len(out.shape) > 2 else -1, sizes)
        right = judge.first_right(proposals, place)
        if right is not None:
            labelled, columns = ways[right]
            sides = [*labelled, *((side, columns) for side in inputs)]
            return unknown | units_of(group_of(path, module), count.groups, sides)
    return unknown


@dataclass(frozen=True)
class _Block:
    """One block under one naming: the orders of its rows and columns that its sizes allow.

    Attributes:
        held: the model's parameters by name.
        path: path of the block.
        naming: the naming.
        rows: parameters of the projections into heads, each with the parts that it makes.
        size: number of columns of the projection out of the heads.
        count: numbers of heads.
    """

    held: dict[str, nn.Parameter]
    path: str
    naming: AttentionNames
    rows: list[tuple[Side, str]]
    size: int
    count: _Count

    def orders(self) -> list[tuple[bool, bool]]:
        """List how rows and columns may lie: rows head by head, columns from head to head."""
        fused = any(len(parts) > 1 for _, parts in self.naming.rows)
        rows = [self.naming.interleaved, not self.naming.interleaved] if fused else [False]
        return [(row, column) for column in (False, True) for row in rows]

    def labels(
        self, interleaved: bool, strided: bool
    ) -> tuple[list[tuple[Side, Tensor]], Tensor] | None:
        """Return the unit of each row and of each column in one order, or None if it cannot be."""
        count = self.count
        rows = [
            (side, count.of_rows(parts, side.size, interleaved=interleaved))
            for side, parts in self.rows
        ]
        rows += self._extra()
        columns = _even(self.size, count.groups)
        if strided:
            columns = torch.arange(self.size) % count.groups
        known = [(side, labels) for side, labels in rows if labels is not None]
        return None if columns is None or len(known) < len(rows) else (known, columns)

    def _extra(self) -> Iterator[tuple[Side, Tensor | None]]:
        """Yield the parameters that belong to heads and lie in no projection."""
        count = self.count
        for name in (joined(self.path, bias) for bias in HEAD_BIASES):
            bias = self.held.get(name)
            if bias is not None and bias.ndim == 2 and bias.shape[1] == count.heads:
                yield Side(name, tuple(bias.shape), 1), _even(count.heads, count.groups)
        for name in (joined(self.path, bias) for bias in ROW_BIASES):
            bias = self.held.get(name)
            if bias is not None and bias.ndim == 1:
                yield Side(name, tuple(bias.shape), 0), _even(bias.shape[0], count.groups)

    def proposal(self, rows: list[tuple[Side, Tensor]], columns: Tensor) -> Proposal:
        """State what the labels say, for the probe."""
        made, whole, first = [], [], int(columns[0])
        for side, labels in rows:
            parameter = self.held[side.name]
            made.append((parameter, along(labels, side.dimension, parameter.ndim)))
            if parameter.ndim > 1 and any(side is s and "k" in parts for s, parts in self.rows):
                own = (labels == first).nonzero().flatten()
                step = max(self.size // self.count.heads, 1)
                whole.append((parameter, own[::step].flip(0)[:4], side.dimension))
        return Proposal(self.count.groups, tuple(made), columns, tuple(whole))


def _count(
    model: nn.Module,
    path: str,
    naming: AttentionNames,
    rows: list[tuple[Side, str]],
    size_of_columns: int,
) -> _Count | None:
    """Read the numbers of heads from the block, or else from the nearest configuration."""
    inner = [joined(path, name).rpartition(".")[0] for name, _ in naming.rows]
    places = [model.get_submodule(p) for p in dict.fromkeys([path, *inner])]
    outer = [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)] if path else []
    above = [model.get_submodule(p) for p in dict.fromkeys([*outer, ""])]
    configs = [m.config for m in (*places, *above) if getattr(m, "config", None) is not None]
    heads = _first(HEADS, [*places, *configs])
    if heads is None or size_of_columns % heads:
        return None
    size = {parts: side.size for side, parts in reversed(rows)}  # the weights come first
    groups = _first(KEY_VALUE_HEADS, [*places, *configs])
    if set(size) == {"q", "k", "v"}:
        inferred = heads * size["k"] // size["q"]
        if groups is None or (size["k"] * heads != size["q"] * groups and inferred == heads):
            groups = inferred
    groups = groups or heads
    count = _Count(heads, groups)
    whole = size_of_columns * (heads + 2 * groups)  # rows of all parts, times the number of heads
    fit = all(
        count.of_rows(parts, side.size, interleaved=naming.interleaved) is not None
        and (parts != "qkv" or side.size * heads == whole)
        for side, parts in rows
    )
    wide = "v" in size and size["v"] * heads != size_of_columns * groups
    return count if fit and not wide and heads % groups == 0 else None


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

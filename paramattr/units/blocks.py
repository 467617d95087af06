"""Attention and feed-forward blocks: a table of the names that models use for their modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from paramattr.units.layouts import Layout, layouts_of


@dataclass(frozen=True)
class AttentionNames:
    """How one family of models names the projections of an attention block.

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

FEED_FORWARD: tuple[tuple[tuple[str, ...], str, int], ...] = (
    # The projections into the neurons, the one out of them, and the rows per neuron in each of
    # the former: 2 if a gate is fused, rows j and j + n.
    (("gate_proj", "up_proj"), "down_proj", 1),  # Llama, Mistral, Qwen, Gemma
    (("up_proj",), "down_proj", 1),
    (("gate_up_proj",), "down_proj", 2),  # Phi-3
    (("wi_0", "wi_1"), "wo", 1),  # T5 v1.1
    (("wi",), "wo", 1),  # T5
    (("c_fc",), "c_proj", 1),  # GPT-2
    (("fc1",), "fc2", 1),  # BART, OPT, ViT, CLIP, timm
    (("lin1",), "lin2", 1),  # DistilBERT
    (("dense_h_to_4h",), "dense_4h_to_h", 1),  # GPT-NeoX, Bloom
    (("intermediate_dense",), "output_dense", 1),  # wav2vec 2.0
    (("dense1",), "dense2", 1),  # SegFormer
    (("intermediate.dense",), "output.dense", 1),  # BERT, RoBERTa, Swin
    (("ffn",), "ffn_output", 1),  # ALBERT
    (("fc_in",), "fc_out", 1),  # GPT-J
    (("linear1",), "linear2", 1),  # nn.TransformerEncoderLayer
    (("w1", "w3"), "w2", 1),  # Llama as it was published, lists of Mixtral's experts
    (("w1",), "w2", 1),
    (("Wi",), "Wo", 2),  # ModernBERT
    (("pwconv1",), "pwconv2", 1),  # ConvNeXt
)

NO_FEED_FORWARD = ("pooler", "classifier", "head", "pre_classifier", "score")
"""Names of modules that are not, and do not hold, feed-forward blocks."""


@dataclass(frozen=True)
class Side:
    """A parameter of a projection, and its dimension on the block's inner side."""

    name: str
    shape: tuple[int, ...]
    dimension: int

    @property
    def size(self) -> int:
        """Count the entries along the dimension."""
        return self.shape[self.dimension]


class Projections:
    """The parameters of a model's linear layers, by the path of the layer.

    A layer wrapped by PEFT keeps its path: the rows of LoRA's `B` are outputs, and the columns of
    its `A` are inputs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layouts = layouts_of(model)
        self._paths = {path for path, _ in model.named_modules()}

    def weight(self, path: str) -> Layout | None:
        """Return the layout of a layer's weight, or None if there is no such layer."""
        for inner in (path, f"{path}.base_layer"):
            for layout in self._layouts.get(inner, []):
                if len(layout.shape) > 1 and None not in (layout.output, layout.input):
                    return layout
        return None

    def outputs(self, path: str) -> Iterator[Side]:
        """Yield the parameters that make a layer's outputs: weight, bias, LoRA's `B`."""
        yield from self._sides(path, "output", f"{path}.lora_B.")

    def inputs(self, path: str) -> Iterator[Side]:
        """Yield the parameters that read a layer's inputs: weight, LoRA's `A`."""
        yield from self._sides(path, "input", f"{path}.lora_A.")

    def _sides(self, path: str, side: str, low_rank: str) -> Iterator[Side]:
        adapters = [inner for inner in self._layouts if inner.startswith(low_rank)]
        for inner in (path, f"{path}.base_layer", *adapters):
            for layout in self._layouts.get(inner, []):
                dimension = layout.output if side == "output" else layout.input
                if dimension is not None:
                    yield Side(layout.name, layout.shape, dimension)

    def with_weights(self, path: str) -> list[str]:
        """List the children of a module that have, or contain, a weight of known layout."""
        prefix = f"{path}." if path else ""
        inner = [p for p in self._layouts if p.startswith(prefix) and p != path]
        return list(dict.fromkeys(p.removeprefix(prefix).partition(".")[0] for p in inner))


def joined(path: str, relative: str) -> str:
    """Join a module's path and the path of a module relative to it."""
    return f"{path}.{relative}" if path else relative


def group_of(path: str, module: nn.Module) -> str:
    """Name a block by its path, or by its class if it is the whole model."""
    return path or type(module).__name__


def unlabelled(model: nn.Module, endings: tuple[str, ...], known: Collection[str]) -> list[str]:
    """List the unknown weights in modules whose class name ends in one of `endings`.

    Biases, LoRA's matrices and routers of experts do not count: they belong to no head or neuron.
    """
    modules = dict(model.named_modules())
    inside = tuple(f"{p}." for p, m in modules.items() if p and type(m).__name__.endswith(endings))
    weights = []
    for name, parameter in model.named_parameters():
        holder = type(modules[name.rpartition(".")[0]]).__name__
        other = holder.endswith("Router") or name.endswith("bias") or ".lora_" in name
        if (
            parameter.ndim > 1
            and name not in known
            and not other
            and name.startswith(tuple(inside))
        ):
            weights.append(name)
    return weights

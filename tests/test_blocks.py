"""Attention heads, neurons and experts of many architectures, checked against their forward pass.

A unit is switched off by its outgoing columns alone; then nothing else of it may matter. That
holds only if rows and columns are told apart as the model's own forward does.
"""

import contextlib
import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paramattr import FAIG, UnitIndex, absolute_change, squared_error
from paramattr.errors import UnitError
from tests.tiny import Attention, seeded
from tests.transformer_models import BUILDS, Logits, inputs_of, shaken, transformers

HEADS = {  # architecture to the path of each block and its heads, or key-value groups
    "bert": {"bert.encoder.layer.0.attention": 2},
    "distilbert": {"distilbert.transformer.layer.0.attention": 2},
    "albert": {"albert.encoder.albert_layer_groups.0.albert_layers.0.attention": 2},
    "gpt2": {"transformer.h.0.attn": 2},
    "gpt_neox": {"gpt_neox.layers.0.attention": 2},
    "bloom": {"transformer.h.0.self_attention": 2},
    "falcon": {"transformer.h.0.self_attention": 2},
    "gpt_bigcode": {"transformer.h.0.attn": 2},
    "llama": {"model.layers.0.self_attn": 2},
    "phi3": {"model.layers.0.self_attn": 2},
    "mixtral": {"model.layers.0.self_attn": 2},
    "qwen2_moe": {"model.layers.0.self_attn": 2},
    "gpt_oss": {"model.layers.0.self_attn": 2},
    "vit": {"vit.layers.0.attention": 2},
    "t5": {
        "encoder.block.0.layer.0.SelfAttention": 2,
        "decoder.block.0.layer.0.SelfAttention": 2,
        "decoder.block.0.layer.1.EncDecAttention": 2,
    },
    "bart": {
        "model.encoder.layers.0.self_attn": 2,
        "model.decoder.layers.0.self_attn": 4,
        "model.decoder.layers.0.encoder_attn": 4,
    },
}
NEURONS = {
    "bert": {"bert.encoder.layer.0": (24,)},
    "distilbert": {"distilbert.transformer.layer.0.ffn": (24,)},
    "albert": {"albert.encoder.albert_layer_groups.0.albert_layers.0": (24,)},
    "gpt2": {"transformer.h.0.mlp": (24,)},
    "gpt_neox": {"gpt_neox.layers.0.mlp": (24,)},
    "bloom": {"transformer.h.0.mlp": (64,)},
    "llama": {"model.layers.0.mlp": (24,)},
    "phi3": {"model.layers.0.mlp": (24,)},
    "mixtral": {"model.layers.0.mlp.experts": (3, 24)},
    "qwen2_moe": {
        "model.layers.0.mlp.experts": (3, 6),
        "model.layers.0.mlp.shared_expert": (6,),
    },
    "gpt_oss": {"model.layers.0.mlp.experts": (3, 24)},
    "vit": {"vit.layers.0.mlp": (24,)},
    "t5": {
        "encoder.block.0.layer.1.DenseReluDense": (24,),
        "decoder.block.0.layer.2.DenseReluDense": (24,),
    },
    "t5_gated": {
        "encoder.block.0.layer.1.DenseReluDense": (24,),
        "decoder.block.0.layer.2.DenseReluDense": (24,),
    },
    "bart": {"model.encoder.layers.0": (24,), "model.decoder.layers.0": (24,)},
}
OUT = ("o_proj", "out_proj", "out_lin", "dense", "c_proj", ".o", "down_proj", "fc2", "lin2", "wo")
OUT += ("dense_4h_to_h", "ffn_output")


def is_outgoing(name: str) -> bool:
    base = name.removesuffix(".weight")
    return base.endswith(OUT) and not base.endswith("intermediate.dense")


def one(index: UnitIndex, unit: int) -> Tensor:
    return torch.arange(len(index)) == unit


@torch.no_grad()
def matters(model: nn.Module, x: Tensor, index: UnitIndex, off: int, moved: int) -> float:
    """Say how far the output moves with the inward part of one unit, when another is off."""
    state = {name: p.clone() for name, p in model.named_parameters()}
    own = dict(model.named_parameters())
    for name in index.labels:
        if is_outgoing(name):
            own[name].mul_(~index.mask(name, one(index, off)))
    before = model(x)
    for name in index.labels:
        if not is_outgoing(name):
            noise = seeded(lambda n=name: torch.randn_like(own[n]), 3)
            own[name].add_(noise * index.mask(name, one(index, moved)))
    change = float((model(x) - before).abs().max())
    for name, value in state.items():
        own[name].copy_(value)
    return change


@pytest.mark.parametrize(
    ("name", "reducer"),
    [(n, "attention_head") for n in HEADS] + [(n, "neuron") for n in NEURONS],
)
def test_a_unit_whose_outgoing_columns_are_zero_does_not_matter(name, reducer):
    model, x = shaken(name), inputs_of(name)
    index = UnitIndex.of(model, reducer)
    start = 0
    for path, (start, shape) in index.groups.items():
        last = start + torch.Size(shape).numel() - 1
        assert is_outgoing(next(n for n in index.labels if path in n and is_outgoing(n)))
        for off, other in ((start, last), (last, start), (start + 1, last)):
            if off == other:
                continue
            assert matters(model, x, index, off, off) < 1e-9
            assert matters(model, x, index, off, other) > 1e-9


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_named_by_their_block(name):
    found = UnitIndex.of(BUILDS[name](), "attention_head")
    assert {n: shape for n, (_, shape) in found.groups.items()} == {
        path: (count,) for path, count in HEADS[name].items()
    }
    assert not any(n.endswith(("o_proj.bias", "dense.bias", "c_proj.bias")) for n in found.labels)


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_are_named_by_their_block(name):
    found = UnitIndex.of(BUILDS[name](), "neuron")
    assert {n: shape for n, (_, shape) in found.groups.items()} == NEURONS[name]
    assert not any("pooler" in n or "classifier" in n for n in found.labels)


HEAD_EDITS = {  # the second head, or group, by hand: parameter to an index of its entries
    "bert": {
        "bert.encoder.layer.0.attention.self.key.weight": (slice(8, 16),),
        "bert.encoder.layer.0.attention.self.query.bias": (slice(8, 16),),
        "bert.encoder.layer.0.attention.output.dense.weight": (slice(None), slice(8, 16)),
    },
    "gpt2": {
        "transformer.h.0.attn.c_attn.weight": (slice(None), slice(40, 48)),  # values
        "transformer.h.0.attn.c_attn.bias": (slice(24, 32),),  # keys
        "transformer.h.0.attn.c_proj.weight": (slice(8, 16),),
    },
    "gpt_neox": {"gpt_neox.layers.0.attention.query_key_value.weight": (slice(24, 48),)},
    "bloom": {"transformer.h.0.self_attention.query_key_value.bias": (slice(24, 48),)},
    "falcon": {"transformer.h.0.self_attention.query_key_value.weight": (slice(16, 32),)},
    "llama": {
        "model.layers.0.self_attn.q_proj.weight": (slice(8, 16),),
        "model.layers.0.self_attn.k_proj.weight": (slice(4, 8),),
        "model.layers.0.self_attn.o_proj.weight": (slice(None), slice(8, 16)),
    },
    "phi3": {
        "model.layers.0.self_attn.qkv_proj.weight": ([*range(8, 16), *range(20, 24), 28, 31],)
    },
    "t5": {
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (slice(None), 1)
    },
}


@pytest.mark.parametrize("name", HEAD_EDITS)
def test_changing_one_head_by_hand_scores_that_head_alone(name):
    target, baseline = BUILDS[name](), BUILDS[name]()
    with torch.no_grad():
        for parameter, place in HEAD_EDITS[name].items():
            baseline.get_parameter(parameter)[place] += 0.5
    scores = absolute_change(target, baseline, reducer="attention_head")
    path = next(iter(HEADS[name]))
    assert [scores.index[n] for n in scores.values.nonzero()] == [(path, (1,))]


def score_of(name: str, target: nn.Module, baseline: nn.Module, reducer: str):
    wrapped = [Logits(name), Logits(name)]
    wrapped[0].model, wrapped[1].model = target, baseline
    x = inputs_of(name)
    with torch.no_grad():
        targets = torch.zeros_like(wrapped[0](x))
    faig = FAIG(*wrapped, objective=squared_error)
    return faig.score([(x, targets)], reducer=reducer, n_steps=2)


@pytest.mark.parametrize(
    ("name", "reducer", "parameter", "place", "unit"),
    [
        ("gpt2", "output_channel", "transformer.h.0.mlp.c_fc.weight", (slice(None), 5), (5,)),
        ("gpt2", "input_channel", "transformer.h.0.mlp.c_fc.weight", (3,), (3,)),
        ("gpt2", "neuron", "transformer.h.0.mlp.c_fc.weight", (slice(None), 5), (5,)),
        ("gpt2", "neuron", "transformer.h.0.mlp.c_proj.weight", (7,), (7,)),
        ("gpt2", "attention_head", "transformer.h.0.attn.c_proj.weight", (slice(8, 16),), (1,)),
        ("llama", "neuron", "model.layers.0.mlp.up_proj.weight", (4,), (4,)),
        ("phi3", "neuron", "model.layers.0.mlp.gate_up_proj.weight", (24 + 4,), (4,)),
        ("mixtral", "expert", "model.layers.0.mlp.experts.down_proj", (2,), (2,)),
        ("mixtral", "neuron", "model.layers.0.mlp.experts.gate_up_proj", (2, 24 + 4), (2, 4)),
        ("mixtral", "output_channel", "model.layers.0.mlp.experts.down_proj", (2, 4), (2, 4)),
        ("bert", "embedding_row", "bert.embeddings.word_embeddings.weight", ("x",), ("x",)),
    ],
)
def test_scoring_finds_the_only_unit_that_changed(name, reducer, parameter, place, unit):
    target, baseline = BUILDS[name](), BUILDS[name]()
    if place == ("x",):  # a word of the text
        place = unit = (int(inputs_of(name)[0, 0]),)
    with torch.no_grad():
        target.get_parameter(parameter)[place] += 0.5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*layout is not known")  # the router
        scores = score_of(name, target, baseline, reducer)
    found = [scores.index[n] for n in scores.values.nonzero()]
    assert len(found) == 1
    assert found[0].position == unit


@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 3}, {"add_bias_kv": True}])
def test_torchs_own_attention(dims):
    layer = seeded(lambda: nn.MultiheadAttention(8, 2, batch_first=True, **dims)).double()
    index = UnitIndex.of(layer, "attention_head")
    assert list(index.groups) == ["MultiheadAttention"]
    assert "out_proj.bias" not in index.labels
    assert {n for n, p in layer.named_parameters() if n != "out_proj.bias"} == set(index.labels)
    q, k, v = (
        seeded(lambda s=size: torch.randn(2, 3, s, dtype=torch.float64), size)
        for size in (8, dims.get("kdim", 8), dims.get("vdim", 8))
    )

    @torch.no_grad()
    def heads() -> Tensor:  # what each head gives to the output, by the columns of out_proj
        whole, parts = layer.out_proj.weight.clone(), []
        for head in range(2):
            layer.out_proj.weight.zero_()
            layer.out_proj.weight[:, 4 * head : 4 * head + 4] = whole[:, 4 * head : 4 * head + 4]
            parts.append(layer(q, k, v, need_weights=False)[0])
        layer.out_proj.weight.copy_(whole)
        return torch.stack(parts)

    before = heads()
    for name in index.labels:
        for head in range(2):
            own = layer.get_parameter(name)
            kept = own.detach().clone()
            with torch.no_grad():
                own.add_(index.mask(name, one(index, head)) * torch.rand_like(own))
            moved = (heads() - before).abs().amax((1, 2, 3)) > 1e-12
            with torch.no_grad():
                own.copy_(kept)
            if "bias" in name and not moved.any():  # a key's bias cancels in the softmax
                continue
            assert moved.tolist() == [n == head for n in range(2)]


def test_heads_inside_a_model_of_ones_own():
    found = UnitIndex.of(seeded(Attention), "attention_head")
    assert found.groups == {"attention": (0, (2,))}
    layer = nn.TransformerEncoderLayer(8, 2, 12)
    assert UnitIndex.of(layer, "attention_head").groups == {"self_attn": (0, (2,))}
    assert UnitIndex.of(layer, "neuron").groups == {"TransformerEncoderLayer": (0, (12,))}


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by (batch, heads, tokens, size), and join the heads."""
    mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


class OddAttention(nn.Module):
    def __init__(self, **numbers: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(6, 6) for _ in range(3))
        self.o_proj = nn.Linear(6, 6)
        self.__dict__.update(numbers)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(2, (3, 2)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(attended(q, k, v))


@pytest.mark.parametrize("numbers", [{}, {"num_heads": 4}])
def test_heads_that_cannot_be_counted_are_named(numbers):
    both = nn.ModuleDict({"odd": OddAttention(**numbers), "known": OddAttention(num_heads=3)})
    with pytest.warns(UserWarning, match=r"4 weights are left out.*'odd.q_proj.weight'"):
        index = UnitIndex.of(both, "attention_head")
    assert index.groups == {"known": (0, (3,))}
    with pytest.raises(UnitError, match=r"no unit to score.*'odd.o_proj.weight'"):
        UnitIndex.of(nn.ModuleDict({"odd": OddAttention(**numbers)}), "attention_head")


class FusedAttention(nn.Module):
    """Queries, keys and values in one layer, in an order, and columns in an order."""

    def __init__(self, rows: str, columns: str = "h c", heads: int = 4, told: int = 4) -> None:
        super().__init__()
        self.num_heads, self._heads, self._orders = told, heads, (rows, columns)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self._orders
        sizes = {"p": 3, "h": self._heads, "c": 8 // self._heads}
        parts = self.qkv(x).unflatten(2, [sizes[letter] for letter in rows.split()])
        whole = "b t " + rows
        q, k, v = torch.einsum(f"{whole.replace(' ', '')}->pbhtc", parts)
        mixed = (q @ k.mT).softmax(-1) @ v
        return self.proj(torch.einsum(f"bhtc->bt{columns.replace(' ', '')}", mixed).flatten(2))


@pytest.mark.parametrize("rows", ["p h c", "h p c", "h c p"])
@pytest.mark.parametrize("columns", ["h c", "c h"])
def test_a_planted_head_is_found_alone_in_whatever_order_its_rows_and_columns_lie(rows, columns):
    block = seeded(lambda: FusedAttention(rows, columns)).double()
    index = UnitIndex.of(block, "attention_head")
    assert index.groups == {"FusedAttention": (0, (4,))}
    x = seeded(lambda: torch.randn(1, 5, 8, dtype=torch.float64), 5)
    for head in range(4):
        mask = {name: index.mask(name, one(index, head)) for name in index.labels}
        with torch.no_grad():
            off = copy.deepcopy(block)
            off.proj.weight[mask["proj.weight"]] = 0
            before = off(x)
            off.qkv.weight[mask["qkv.weight"]] += 1
            off.qkv.bias[mask["qkv.bias"]] += 1
            torch.testing.assert_close(off(x), before)
            off.qkv.weight[~mask["qkv.weight"]] += 1
            assert not torch.allclose(off(x), before)


@pytest.mark.parametrize(
    "block",
    [
        FusedAttention("c h p"),  # an order that no proposal has
        FusedAttention("p h c", heads=2, told=4),  # half of the heads that it tells of
        FusedAttention("p h c", heads=4, told=2),  # twice as many
    ],
)
def test_fused_attention_that_contradicts_its_sizes_is_refused(block):
    with pytest.raises(UnitError, match=r"layout of 2 weights.*'qkv.weight'.*reducer"):
        UnitIndex.of(block, "attention_head")


class TalkingAttention(OddAttention):
    """Heads that are mixed behind the softmax."""

    def __init__(self) -> None:
        super().__init__(num_heads=3)
        self.mix = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(2, (3, 2)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = self.mix((q @ k.mT).softmax(-1).movedim(1, -1)).movedim(-1, 1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


class SilentAttention(OddAttention):
    forward = None  # type: ignore[assignment]


@pytest.mark.parametrize("build", [TalkingAttention, lambda: SilentAttention(num_heads=3)])
def test_attention_that_mixes_heads_or_cannot_be_run_is_refused(build):
    both = nn.ModuleDict({"odd": build(), "known": OddAttention(num_heads=3)})
    with pytest.warns(UserWarning, match=r"weights are left out.*'odd.q_proj.weight'"):
        index = UnitIndex.of(both, "attention_head")
    assert index.groups == {"known": (0, (3,))}


@pytest.mark.parametrize("ratio", [1, 2])
def test_convbert_is_refused(ratio):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "vocab_size": 30}
    config = transformers.ConvBertConfig(
        **sizes, num_attention_heads=4, embedding_size=16, head_ratio=ratio
    )
    with pytest.raises(UnitError, match="layout of"):
        UnitIndex.of(transformers.ConvBertModel(config), "attention_head")


def test_differential_attention_whose_heads_are_pairs_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "vocab_size": 30}
    config = transformers.DiffLlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    with pytest.raises(UnitError, match="layout of"):
        UnitIndex.of(transformers.DiffLlamaModel(config), "attention_head")


class Between(nn.Module):
    """A feed-forward block with something between its layers."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.fc1, self.between, self.fc2 = nn.Linear(4, 8), between, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.between(self.fc1(x)))


class ResponseNorm(nn.Module):  # of ConvNeXt V2
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(dim=1, keepdim=True)
        return x + self.weight * x * norm / norm.mean(-1, keepdim=True) + self.bias


@pytest.mark.parametrize(
    ("between", "known"),
    [
        (nn.GELU(), True),
        (nn.Sequential(nn.ReLU(), nn.RMSNorm(8)), True),  # a common scale, as of every norm
        (nn.Softmax(-1), False),
        (ResponseNorm(), False),
        (nn.Conv1d(16, 16, 3, padding=1), False),  # along the neurons
        (nn.Linear(8, 8), False),
    ],
)
def test_neurons_that_are_mixed_between_the_layers_are_refused(between, known):
    model = nn.ModuleDict({"a": Between(between), "plain": Between(nn.Tanh())})
    if known:
        assert list(UnitIndex.of(model, "neuron").groups) == ["a", "plain"]
    else:
        with pytest.warns(UserWarning, match=r"2 weights are left out.*'a.fc1.weight'"):
            assert list(UnitIndex.of(model, "neuron").groups) == ["plain"]


def test_looking_at_a_block_leaves_the_model_and_the_random_state_as_they_were():
    called = []
    model = nn.ModuleDict({"a": OddAttention(num_heads=3), "b": Between(nn.Dropout(0.5))})
    model["a"].register_forward_hook(lambda *_: called.append(1))
    model["a"].o_proj.register_forward_pre_hook(lambda *_: called.append(1))
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    draws = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for reducer in ("attention_head", "neuron"):
        UnitIndex.of(model, reducer)
    assert not called
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == draws  # noqa: NPY002


@pytest.mark.parametrize("where", ["float64", "no_grad", "inference", "meta", "errors"])
def test_heads_are_the_same_wherever_the_model_lies_and_whatever_is_switched_on(where):
    model = OddAttention(num_heads=3).to("meta" if where == "meta" else "cpu")
    around = {
        "no_grad": torch.no_grad(),
        "inference": torch.inference_mode(),
        "float64": default_dtype(torch.float64),
    }.get(where, contextlib.nullcontext())
    with around:
        assert UnitIndex.of(model, "attention_head").groups == {"OddAttention": (0, (3,))}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def test_blocks_of_one_make_are_looked_at_once():
    runs = []

    class Counted(OddAttention):
        def forward(self, x: Tensor) -> Tensor:
            runs.append(1)
            return super().forward(x)

    UnitIndex.of(nn.ModuleList([Counted(num_heads=3)]), "attention_head")
    once = len(runs)
    assert once > 0
    UnitIndex.of(nn.ModuleList(Counted(num_heads=3) for _ in range(5)), "attention_head")
    assert len(runs) == 2 * once


def test_a_classifier_or_an_hourglass_that_widens_is_no_feed_forward_block():
    class Head(nn.Module):
        def __init__(self, out: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, out)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(torch.tanh(self.fc1(x)))

    assert UnitIndex.of(nn.ModuleDict({"a": Head(4)}), "neuron").groups == {"a": (0, (8,))}
    for refused in ({"a": Head(3)}, {"classifier": Head(4)}):
        with pytest.raises(UnitError, match="no unit"):
            UnitIndex.of(nn.ModuleDict(refused), "neuron")
    block = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 4))
    assert len(UnitIndex.of(block, "neuron")) == 8


def test_lists_of_experts_and_stacks_give_one_unit_each():
    block = nn.Module()
    block.gate = nn.Linear(4, 3)
    block.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)) for _ in "abc")
    index = UnitIndex.of(block, "expert")
    assert index.groups == {"experts": (0, (3,))}
    assert index.reduce({n: torch.ones(s) for n, s in index.shapes.items()}).tolist() == [76.0] * 3
    block.experts = nn.ModuleDict({f"expert_{n}": nn.Linear(4, n + 1) for n in range(3)})
    index = UnitIndex.of(block, "expert")
    assert index.reduce({n: torch.ones(s) for n, s in index.shapes.items()}).tolist() == [5, 10, 15]
    mixtral = UnitIndex.of(BUILDS["qwen2_moe"](), "expert")
    assert list(mixtral.labels) == [
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
    ]
    with pytest.raises(UnitError, match="no unit"):
        UnitIndex.of(nn.Linear(2, 2), "expert")


def test_a_compiled_block_and_one_with_a_patched_forward_are_not_run_themselves():
    runs = []
    plain, patched = OddAttention(num_heads=3), OddAttention(num_heads=3)
    plain.compile(backend=lambda graph, inputs: runs.append(1) or graph)
    own = patched.forward
    patched.forward = lambda x: runs.append(1) or own(x)
    model = nn.ModuleDict({"plain": plain, "patched": patched})
    with pytest.warns(UserWarning, match=r"4 weights are left out.*'patched.q_proj.weight'"):
        index = UnitIndex.of(model, "attention_head")
    assert index.groups == {"plain": (0, (3,))}
    assert not runs


def test_weights_that_accelerate_moves_around_a_call_stay_where_they_are():
    hooks = pytest.importorskip("accelerate.hooks")
    moved = []

    class Mover(hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            moved.append(module)
            return args, kwargs

    model = OddAttention(num_heads=3)
    for module in (model, model.q_proj):
        hooks.add_hook_to_module(module, Mover())
    assert UnitIndex.of(model, "attention_head").groups == {"OddAttention": (0, (3,))}
    assert not moved

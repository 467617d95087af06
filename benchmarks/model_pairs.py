"""Pairs of small models of many kinds, seeded: what a user may hand in, as it is handed in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from paramattr import (
    cross_entropy,
    next_token_cross_entropy,
    squared_error,
    token_cross_entropy,
)

SAMPLES = 3


@dataclass(frozen=True)
class ModelPair:
    """Two models and data for them.

    Attributes:
        target: as a user hands it in, wrapped or not.
        baseline: likewise.
        batch: what a loader gives, a batch of `SAMPLES`.
        objective: of the output.
        unit: a reducer whose units suit the model.
        options: further keywords of `FAIG`.
        reference: the model whose objective the baseline's is, where it is not the baseline itself.
    """

    target: nn.Module
    baseline: nn.Module
    batch: Any
    objective: Callable[[Any, Any], Tensor]
    unit: str = "layer"
    options: dict[str, Any] = field(default_factory=dict)
    reference: nn.Module | None = None


def tuned(model: nn.Module, scale: float = 0.05, seed: int = 1) -> nn.Module:
    """Give a copy whose parameters and running statistics have moved, as fine-tuning moves them."""
    draw = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            step = torch.randn(parameter.shape, generator=draw) * scale
            if parameter.requires_grad:
                parameter += step.to(parameter)
        for name, buffer in other.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += torch.rand(buffer.shape, generator=draw).to(buffer) * 0.3
    return other


def images() -> Tensor:
    return torch.randn(SAMPLES, 3, 8, 8)


def _convolutions() -> ModelPair:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    batch = (images(), torch.tensor([0, 1, 2]))
    return ModelPair(tuned(model), model, batch, cross_entropy, "kernel")


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _residual() -> ModelPair:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), _Block(6), _Block(6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    batch = {"input": images(), "labels": torch.tensor([0, 1, 2])}
    return ModelPair(tuned(model), model, batch, cross_entropy, "output_channel")


def _instance_norm() -> ModelPair:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Tanh(), nn.Conv2d(4, 2, 3),
    ).eval()  # fmt: skip
    return ModelPair(
        tuned(model), model, (images(), torch.randn(SAMPLES, 2, 4, 4)), squared_error, "kernel"
    )


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def _lstm() -> ModelPair:
    model = _Recurrent().eval()
    return ModelPair(
        tuned(model), model, (torch.randn(SAMPLES, 4, 3), torch.randn(SAMPLES, 2)), squared_error
    )


def _transformer() -> ModelPair:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Transformer(8, 2, 1, 1, 12, batch_first=True).eval()
    source, own = torch.randn(SAMPLES, 5, 8), torch.randn(SAMPLES, 4, 8)
    return ModelPair(
        tuned(model), model, ((source, own), torch.randn(SAMPLES, 4, 8)), squared_error,
        "attention_head",
    )  # fmt: skip


def _weight_norm() -> ModelPair:
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.Tanh(), nn.Conv2d(4, 2, 3)).eval()
    return ModelPair(
        tuned(model), model, (images(), torch.randn(SAMPLES, 2, 4, 4)), squared_error, "layer"
    )


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6, padding_idx=0)
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(ids))))


def _tied() -> ModelPair:
    model = _Tied().eval()
    ids = torch.tensor([[0, 3, 5], [1, 0, 2], [4, 4, 0]])
    target = tuned(model)
    assert target.head.weight is target.embed.weight
    return ModelPair(target, model, (ids, ids), token_cross_entropy, "embedding_row")


def _hugging_face(kind: str, config: str, **sizes: Any) -> nn.Module:
    import transformers

    own = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made = getattr(transformers, config)(**{**own, **sizes})
    return getattr(transformers, kind)(made).eval()


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "vocab_size": 40}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}


def tokens(vocabulary: int = 40, length: int = 6) -> dict[str, Tensor]:
    """Give token numbers with padding behind, its mask, and labels of -100 there."""
    ids = torch.randint(3, vocabulary, (SAMPLES, length))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    ids[mask == 0] = 0
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _bert(labels: int = 3) -> nn.Module:
    return _hugging_face(
        "BertForSequenceClassification", "BertConfig", **SIZES, num_attention_heads=2,
        num_labels=labels,
    )  # fmt: skip


def _classes() -> dict[str, Tensor]:
    return {**tokens(), "labels": torch.tensor([0, 1, 2])}


def _of_bert() -> ModelPair:
    model = _bert()
    return ModelPair(tuned(model), model, _classes(), cross_entropy, "attention_head")


def _new_head() -> ModelPair:
    base = _bert(labels=2)
    target = tuned(_bert(labels=3))
    state = {k: v for k, v in base.state_dict().items() if not k.startswith("classifier")}
    reference = copy.deepcopy(target)
    reference.load_state_dict(state, strict=False)
    return ModelPair(
        target, base, _classes(), cross_entropy, "neuron", {"strict": False}, reference
    )


def _gpt2() -> nn.Module:
    return _hugging_face(
        "GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=2, n_head=2, vocab_size=40,
        n_positions=16,
    )  # fmt: skip


def _of_gpt2() -> ModelPair:
    model = _gpt2()
    return ModelPair(tuned(model), model, tokens(), next_token_cross_entropy, "attention_head")


def _causal(
    kind: str, config: str, unit: str, scale: float = 0.05, **more: Any
) -> Callable[[], ModelPair]:
    def build() -> ModelPair:
        model = _hugging_face(kind, config, **{**SIZES, **more})
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.endswith("gate.weight"))  # a router stays frozen
        return ModelPair(tuned(model, scale), model, tokens(), next_token_cross_entropy, unit)

    return build


def _vit() -> ModelPair:
    model = _hugging_face(
        "ViTForImageClassification", "ViTConfig", hidden_size=16, num_hidden_layers=2,
        intermediate_size=24, num_attention_heads=2, image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    batch = {"pixel_values": images(), "labels": torch.tensor([0, 1, 2])}
    return ModelPair(tuned(model), model, batch, cross_entropy, "attention_head")


def _t5() -> ModelPair:
    model = _hugging_face(
        "T5ForConditionalGeneration", "T5Config", d_model=16, d_kv=8, d_ff=24, num_layers=1,
        num_heads=2, vocab_size=40, decoder_start_token_id=0,
    )  # fmt: skip
    return ModelPair(tuned(model), model, tokens(), token_cross_entropy, "neuron")


def _lora() -> ModelPair:
    from peft import LoraConfig, get_peft_model

    base = _gpt2()
    config = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    target = get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return ModelPair(target, base, tokens(), next_token_cross_entropy, "attention_head")


def _compiled() -> ModelPair:
    pair = _convolutions()
    return ModelPair(
        torch.compile(pair.target), pair.baseline, pair.batch, pair.objective, "kernel"
    )  # type: ignore[arg-type]


def _data_parallel() -> ModelPair:
    pair = _residual()
    return ModelPair(
        nn.DataParallel(pair.target), nn.DataParallel(pair.baseline), pair.batch, pair.objective,
        "output_channel",
    )  # fmt: skip


def _in(dtype: torch.dtype) -> Callable[[], ModelPair]:
    def build() -> ModelPair:
        model = _gpt2().to(dtype)
        return ModelPair(tuned(model), model, tokens(), next_token_cross_entropy, "neuron")

    return build


PAIRS: dict[str, Callable[[], ModelPair]] = {
    "convolutions, batch norm": _convolutions,
    "residual network, batch norm": _residual,
    "instance norm with statistics": _instance_norm,
    "LSTM": _lstm,
    "nn.Transformer": _transformer,
    "weight norm": _weight_norm,
    "tied embedding, padding_idx": _tied,
    "BERT": _of_bert,
    "BERT, new head": _new_head,
    "GPT-2": _of_gpt2,
    "Llama, grouped queries": _causal(
        "LlamaForCausalLM", "LlamaConfig", "attention_head", **GROUPED
    ),
    "Mixtral, frozen router": _causal(
        "MixtralForCausalLM", "MixtralConfig", "expert", **GROUPED, num_local_experts=4
    ),
    "Mixtral, twice the change": _causal(
        "MixtralForCausalLM", "MixtralConfig", "expert", 0.1, **GROUPED, num_local_experts=4
    ),
    "Mamba": _causal("MambaForCausalLM", "MambaConfig", "layer", state_size=4),
    "ViT": _vit,
    "T5": _t5,
    "LoRA against its base": _lora,
    "torch.compile": _compiled,
    "DataParallel": _data_parallel,
    "float16": _in(torch.float16),
    "bfloat16": _in(torch.bfloat16),
    "float64": _in(torch.float64),
}
"""Kinds of models to what builds a pair; seed before each."""

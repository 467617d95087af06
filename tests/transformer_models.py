"""Tiny models of Hugging Face's transformers with random weights, one per kind of block."""

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import seeded

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "vocab_size": 30}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
OWN_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _built(kind: str, config: str, **options) -> nn.Module:
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    options = {**OWN_TOKENS, **eager, **options}
    made = getattr(transformers, config)(**options)
    return seeded(lambda: getattr(transformers, kind)(made)).eval()


BUILDS = {
    "bert": lambda: _built(
        "BertForSequenceClassification", "BertConfig", **SIZES, num_attention_heads=2
    ),
    "distilbert": lambda: _built(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=24,
        vocab_size=30,
    ),
    "albert": lambda: _built(
        "AlbertForSequenceClassification",
        "AlbertConfig",
        **SIZES,
        num_attention_heads=2,
        embedding_size=8,
    ),
    "gpt2": lambda: _built(
        "GPT2LMHeadModel",
        "GPT2Config",
        n_embd=16,
        n_layer=1,
        n_head=2,
        vocab_size=30,
        n_positions=8,
        n_inner=24,
    ),
    "gpt_neox": lambda: _built(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", **SIZES, num_attention_heads=2
    ),
    "bloom": lambda: _built(
        "BloomForCausalLM", "BloomConfig", hidden_size=16, n_layer=1, n_head=2, vocab_size=30
    ),
    "falcon": lambda: _built(
        "FalconForCausalLM",
        "FalconConfig",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        new_decoder_architecture=True,
        vocab_size=30,
    ),
    "gpt_bigcode": lambda: _built(
        "GPTBigCodeForCausalLM",
        "GPTBigCodeConfig",
        n_embd=16,
        n_layer=1,
        n_head=2,
        multi_query=False,
        vocab_size=30,
        n_positions=8,
    ),
    "llama": lambda: _built("LlamaForCausalLM", "LlamaConfig", **SIZES, **GROUPED),
    "phi3": lambda: _built("Phi3ForCausalLM", "Phi3Config", **SIZES, **GROUPED),
    "mixtral": lambda: _built(
        "MixtralForCausalLM",
        "MixtralConfig",
        **SIZES,
        **GROUPED,
        num_local_experts=3,
        num_experts_per_tok=3,
    ),
    "qwen2_moe": lambda: _built(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        **SIZES,
        **GROUPED,
        moe_intermediate_size=6,
        shared_expert_intermediate_size=6,
        num_experts=3,
        num_experts_per_tok=3,
    ),
    "gpt_oss": lambda: _built(
        "GptOssForCausalLM",
        "GptOssConfig",
        **SIZES,
        **GROUPED,
        head_dim=4,
        num_local_experts=3,
        num_experts_per_tok=3,
    ),
    "vit": lambda: _built(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
    ),
    "t5": lambda: _built(
        "T5ForConditionalGeneration",
        "T5Config",
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        vocab_size=30,
        decoder_start_token_id=0,
    ),
    "t5_gated": lambda: _built(
        "T5ForConditionalGeneration",
        "T5Config",
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        vocab_size=30,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    ),
    "bart": lambda: _built(
        "BartForConditionalGeneration",
        "BartConfig",
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        vocab_size=30,
        max_position_embeddings=16,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    ),
    "mamba": lambda: _built(
        "MambaForCausalLM",
        "MambaConfig",
        hidden_size=16,
        num_hidden_layers=1,
        vocab_size=30,
        state_size=4,
    ),
}


class Logits(nn.Module):
    """A model that takes token ids, or an image, and gives logits."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = BUILDS[name]()
        self.more = ["decoder_input_ids"] if name in ("t5", "t5_gated", "bart") else []
        self.first = "pixel_values" if name == "vit" else "input_ids"

    def forward(self, x: Tensor) -> Tensor:
        return self.model(**{self.first: x}, **dict.fromkeys(self.more, x)).logits


def inputs_of(name: str) -> Tensor:
    if name == "vit":
        return seeded(lambda: torch.randn(2, 3, 8, 8), 5)
    return seeded(lambda: torch.randint(3, 30, (2, 5)), 5)


def shaken(name: str, scale: float = 0.5) -> nn.Module:
    """Build a model whose every parameter, zeros too, is moved by noise, in float64."""
    model = Logits(name).double().eval()

    def move() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter))

    seeded(move, 11)
    return model

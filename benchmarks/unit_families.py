"""Families of `transformers` and `timm` as tiny random models, each with an input that it takes."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[nn.Module], Any]
SIZES: dict[tuple[str, ...], int] = {
    ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "word_embed_proj_dim", "d_embed"): 32,
    ("hidden_dim", "intermediate_size", "ffn_dim", "d_ff", "n_inner", "d_inner"): 48,
    ("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "intermediate_dim"): 48,
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"): 2,
    ("encoder_layers", "decoder_layers", "num_decoder_layers", "num_encoder_layers"): 1,
    ("num_attention_heads", "n_head", "n_heads", "num_heads"): 4,
    ("encoder_attention_heads", "decoder_attention_heads", "num_experts"): 4,
    ("num_local_experts", "n_routed_experts", "moe_num_experts"): 4,
    ("num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "type_vocab_size"): 2,
    ("d_kv", "head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank", "sliding_window"): 8,
    ("patch_size",): 8,
    ("vocab_size", "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"): 64,
    ("image_size", "inner_dim"): 32,
    ("pad_token_id", "decoder_start_token_id"): 0,
    ("bos_token_id", "n_group", "topk_group", "first_k_dense_replace"): 1,
    ("eos_token_id",): 2,
    ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_intermediate_size"): 16,
    ("embedding_size", "projection_dim"): 16,
    ("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"): 4,
    ("num_channels",): 3,
}
"""Fields of configurations, and what they are made small to."""
UNSET = ("head_dim", "q_lora_rank", "num_key_value_heads", "n_inner")
"""Fields that are left alone where a configuration leaves them to others."""
LARGEST = 6_000_000
"""Parameters of a model; a family that its configuration's fields do not make small is left out."""

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
_FEED = {**_LAYERS, "intermediate_size": 48}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32}
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "window_size": 4}
_SWIN_STAGES: dict[str, Any] = {"depths": [2, 2], "num_heads": [2, 4]}
_TEXT = {**_FEED, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 2}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # name of the row to family and options
    "bigcode, one key": ("gpt_bigcode", {**_GPT, "multi_query": True}),
    "bigcode, many keys": ("gpt_bigcode", {**_GPT, "multi_query": False}),
    "convbert, ratio 1": ("convbert", {**_FEED, "embedding_size": 32, "head_ratio": 1}),
    "convbert, ratio 2": ("convbert", {**_FEED, "embedding_size": 32, "head_ratio": 2}),
    "deberta-v2, relative": (
        "deberta-v2",
        {**_FEED, "relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 4},
    ),
    "falcon, one key": ("falcon", {**_LAYERS, "multi_query": True}),
    "falcon, many keys": ("falcon", {**_LAYERS, "multi_query": False, "alibi": True}),
    "falcon, grouped": ("falcon", {**_LAYERS, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "gpt2, cross-attention": ("gpt2", {**_GPT, "add_cross_attention": True}),
    "swin": ("swin", {**_SWIN, **_SWIN_STAGES}),
    "swinv2": ("swinv2", {**_SWIN, **_SWIN_STAGES}),
    "beit, relative": (
        "beit",
        {**_FEED, "image_size": 32, "patch_size": 8, "use_relative_position_bias": True},
    ),
    "clip": ("clip", {"text_config": _TEXT, "vision_config": _VISION}),
    "convnextv2": ("convnextv2", {"hidden_sizes": [8] * 4, "depths": [1] * 4, "image_size": 32}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_FEED,
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "whisper": (
        "whisper",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 64,
            "max_source_positions": 10,
            "max_target_positions": 16,
            "decoder_start_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "xlnet": ("xlnet", {"vocab_size": 64, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48}),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 64,
            "intermediate_size": 48,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "squeezebert": ("squeezebert", {**_FEED, "embedding_size": 32}),
    "t5, gated": (
        "t5",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 64,
            "feed_forward_proj": "gated-gelu",
        },
    ),
}
"""Families in settings that change their blocks, and those that need more than small sizes."""

TIMM = """
beit_base_patch16_224 beitv2_base_patch16_224 cait_xxs24_224 coat_lite_tiny coatnet_nano_rw_224
convit_tiny convmixer_768_32 convnext_atto convnext_atto_ols convnextv2_atto crossvit_9_240
davit_tiny deit_tiny_patch16_224 deit3_small_patch16_224 edgenext_xx_small efficientformer_l1
efficientformerv2_s0 eva02_tiny_patch14_224 fastvit_t8 flexivit_small focalnet_tiny_srf
gcvit_xxtiny gmixer_12_224 hiera_tiny_224 inception_next_atto levit_128s maxvit_nano_rw_256
maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256 mixer_s32_224 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
naflexvit_base_patch16_gap nest_tiny_jx nextvit_small pit_ti_224 poolformer_s12 pvt_v2_b0
regnetz_005 repvit_m0_9 resmlp_12_224 rexnetr_200 samvit_base_patch16_224 sequencer2d_s shvit_s1
swiftformer_xs swin_s3_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224
swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_legacy_patch16_224 twins_svt_small vitamin_small_224
vit_base_patch16_rope_224 vit_base_patch16_siglip_224 vit_relpos_small_patch16_224
vit_small_r26_s32_224 vit_tiny_patch16_224 volo_d1_224 xcit_nano_12_p16_224
"""
"""One model or more of every architecture of timm with attention or feed-forward blocks."""


def _stub_torchvision() -> None:
    """Let timm be imported without torchvision, which its models do not call."""

    class Stub(types.ModuleType):
        __path__: tuple[str, ...] = ()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            members = ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
            return type(name, (), {member: n for n, member in enumerate(members)})

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            own = name == "torchvision" or name.startswith("torchvision.")
            return importlib.machinery.ModuleSpec(name, self, is_package=True) if own else None

        def create_module(self, spec: Any) -> types.ModuleType:
            return Stub(spec.name)

        def exec_module(self, module: types.ModuleType) -> None:
            pass

    try:
        import torchvision  # noqa: F401
    except ImportError:
        sys.meta_path.insert(0, Finder())


def timm_model(name: str) -> tuple[nn.Module, Call]:
    """Build one model of timm, and say how to run it."""
    _stub_torchvision()
    import timm

    try:
        model = timm.create_model(name, pretrained=False, num_classes=3, depth=2)
    except (TypeError, RuntimeError):  # its depth is a list, or not to be chosen
        model = timm.create_model(name, pretrained=False, num_classes=3)
    size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    image = torch.randn(1, *size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return shaken(model), lambda m: m(image)


def families() -> list[str]:
    """List the families of transformers that have a model of their own."""
    from transformers import MODEL_MAPPING

    return sorted(MODEL_MAPPING._model_mapping)


def transformers_model(name: str) -> tuple[nn.Module, Call]:
    """Build one tiny model of transformers, and find an input that it takes.

    Raises:
        Exception: whatever transformers raises where no such model can be built; StopIteration
            where none of the inputs suits it.
    """
    from transformers import CONFIG_MAPPING, AutoModel, logging

    logging.set_verbosity_error()

    family, options = VARIANTS.get(name, (name, {}))
    kind = CONFIG_MAPPING[family]
    config = kind(**(options or small(kind())))
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModel.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} parameters")
    eager = {"attn_implementation": "eager"}
    try:
        model = AutoModel.from_config(config, experts_implementation="eager", **eager)
    except (TypeError, ValueError):
        model = AutoModel.from_config(config, **eager)
    model = shaken(model)
    return model, next(call for call in calls(name) if runs(model, call))


def runs(model: nn.Module, call: Call) -> bool:
    """Say whether a model takes an input, and gives numbers."""
    try:
        with torch.no_grad():
            return all(bool(t.isfinite().all()) for t in list(tensors(call(model)))[:1])
    except Exception:  # whatever the family raises on an input that is not its own
        return False


def tensors(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of a model's output, however it is packed."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        yield from tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for one in output:
            yield from tensors(one)


def small(config: Any) -> dict[str, int]:
    """Give the fields that make a configuration small."""
    wanted = {name: size for names, size in SIZES.items() for name in names}
    own = {name: getattr(config, name) for name in wanted if hasattr(config, name)}
    left = {name for name, size in own.items() if size is None and name in UNSET}
    return {n: wanted[n] for n, s in own.items() if n not in left and type(s) in (int, type(None))}


def shaken(model: nn.Module) -> nn.Module:
    """Give every parameter a random value, zeros and ones too, in float64."""
    model, draw = model.double().eval(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            scale = 0.3 if p.ndim < 2 else min(0.3, 2 / (p.numel() / p.shape[0]) ** 0.5)
            p.copy_(scale * noise + float(p.ndim == 1 and p.mean() > 0.5))
    return model


def calls(name: str) -> Iterator[Call]:
    """Yield the ways to call a model of transformers: words, images, sounds, or several."""
    draw = torch.Generator().manual_seed(6)
    words = torch.randint(3, 60, (2, 7), generator=draw)
    image, sound, hidden = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((2, 3, 32, 32), (2, 4000), (2, 5, 32))
    )
    if "cross" in name:
        yield lambda m: m(input_ids=words, encoder_hidden_states=hidden)
    yield lambda m: m(input_ids=words, use_cache=False)
    yield lambda m: m(input_ids=words)
    yield lambda m: m(pixel_values=image)
    yield lambda m: m(input_ids=words, decoder_input_ids=words)
    yield lambda m: m(input_ids=words, pixel_values=image)
    yield lambda m: m(input_values=sound)
    features = torch.randn(2, 80, 20, generator=draw, dtype=torch.float64)
    yield lambda m: m(input_features=features, decoder_input_ids=words)
    yield lambda m: m(input_features=features.mT)

"""Folders as `save_pretrained` writes them: tiny seeded models, and a tokenizer of a few words."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from paramattr import Selection, UnitIndex
from tests.tiny import seeded

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = [f"word{number}" for number in range(24)]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 32,
    "max_position_embeddings": 32,
}


def bert(**options) -> nn.Module:
    config = transformers.BertConfig(**{**SIZES, "num_labels": 2, **options})
    return seeded(lambda: transformers.BertForSequenceClassification(config)).eval()


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=16,
        n_layer=2,
        n_head=4,
        vocab_size=32,
        n_positions=32,
        bos_token_id=3,
        eos_token_id=3,
    )
    return seeded(lambda: transformers.GPT2LMHeadModel(config)).eval()


def save_tokenizer(folder: Path) -> None:
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    ).save_pretrained(folder)


def saved(model: nn.Module, folder: Path, **options) -> Path:
    model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return folder


def with_head(model: nn.Module, layer: int, head: int, size: float = 1.0) -> nn.Module:
    """Alter the query of one head of one of BERT's blocks, its values and its output, by hand."""
    altered = copy.deepcopy(model)
    block = altered.bert.encoder.layer[layer].attention
    rows = slice(4 * head, 4 * head + 4)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (block.self.query.weight, block.self.value.weight):
            weight[rows] += size * torch.randn(4, 16, generator=draw)
        block.output.dense.weight[:, rows] += size * torch.randn(16, 4, generator=draw)
    return altered


def write_lines(path: Path, count: int = 8, conditions: tuple[str, ...] = ()) -> Path:
    draw = torch.Generator().manual_seed(0)
    lines = []
    for number in range(count):
        words = torch.randint(len(WORDS), (3 + number % 4,), generator=draw)
        line = {"text": " ".join(WORDS[word] for word in words), "label": number % 2}
        if conditions:
            line["condition"] = conditions[number % len(conditions)]
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_pair(folder: Path) -> Path:
    """Write a base, the same with one head altered, whole and in parts, and texts."""
    base = bert()
    saved(base, folder / "base")
    saved(with_head(base, 1, 2), folder / "tuned")
    saved(with_head(base, 1, 2), folder / "sharded", max_shard_size="8KB")
    write_lines(folder / "texts.jsonl")
    write_lines(folder / "two.jsonl", 12, ("red", "blue", "red"))
    return folder


def write_gpt_pair(folder: Path) -> None:
    """Write a GPT-2, the same with one neuron altered, and texts without labels."""
    model = gpt2()
    saved(model, folder / "gpt")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight[5] += 1
    saved(model, folder / "gpt-tuned")
    (folder / "plain.jsonl").write_text('{"text": "word1 word2 word3"}\n{"text": "word4 word1"}\n')


def moved(base: nn.Module) -> nn.Module:
    """Copy a model with one head altered, and all else moved a little."""
    found = with_head(base, 1, 2)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return found


def some(model: nn.Module, reducer: str, *numbers: int) -> Selection:
    """Select units by their numbers."""
    index = UnitIndex.of(model, reducer)
    chosen = torch.zeros(len(index), dtype=torch.bool)
    chosen[list(numbers)] = True
    return Selection(index, chosen)

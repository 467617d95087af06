"""Good files of every kind that is read: what the attacks begin with."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr import FAIG, Selection, UnitIndex, compare, random_scores, save_state_dict

WORDS = [f"word{number}" for number in range(24)]
SIDE = 160
"""Of the photographs, in pixels."""


def network() -> nn.Module:
    """Give the network of the state dicts: its weights are 1 MiB."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(512, 500), nn.ReLU(), nn.Linear(500, 4)).eval()


def tuned(model: nn.Module) -> nn.Module:
    """Move every weight a little."""
    found = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in found.parameters():
            value += 0.01 * torch.randn(value.shape, generator=draw)
    return found


def samples() -> list[tuple[Tensor, Tensor]]:
    """Give three batches of two samples."""
    draw = torch.Generator().manual_seed(2)
    return [
        (torch.randn(2, 512, generator=draw), torch.randn(2, 4, generator=draw)) for _ in range(3)
    ]


def losses(model: nn.Module) -> Tensor:
    """Measure a model on the samples."""
    return torch.cat([(model(x) - y).square().sum(1) for x, y in samples()])


def compared(folder: Path) -> None:
    """Compare a ranking with random ones, and keep what was measured."""
    base = network()
    compare(
        tuned(base),
        base,
        {"random": random_scores(base, reducer="layer")},
        {"loss": losses},
        fractions=(0, 0.5, 1),
        checkpoint=folder / "curve.safetensors",
    )


def write(folder: Path) -> Path:
    """Write one good file of every kind."""
    folder.mkdir(parents=True)
    base = network()
    target = tuned(base)
    save_state_dict(folder / "base.safetensors", base.state_dict())
    save_state_dict(folder / "state.safetensors", target.state_dict())
    torch.save(target.state_dict(), folder / "state.pth")
    legacy = {"_use_new_zipfile_serialization": False}
    torch.save(target.state_dict(), folder / "legacy.pth", **legacy)
    scores = random_scores(base, reducer="output_channel")
    scores.save(folder / "scores.safetensors")
    scores.top(count=2).save(folder / "selection.safetensors")
    FAIG(target, base).score(
        samples(), reducer="layer", n_steps=1, checkpoint=folder / "progress.safetensors"
    )
    compared(folder)
    (folder / "rows.json").write_text(json.dumps({"rows": [1, 2]}))
    _write_photographs(folder / "photographs")
    _write_folders(folder)
    return folder


def _write_cache(folder: Path) -> None:
    """Lay the tuned folder out as the cache of the Hugging Face hub does."""
    repository = folder / "hub" / "models--me--tuned"
    snapshot = repository / "snapshots" / "main"
    for place in (snapshot, repository / "blobs"):
        place.mkdir(parents=True)
    for number, file in enumerate(sorted((folder / "tuned").iterdir())):
        shutil.copy(file, repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")


def write_lines(path: Path, lines: list[Any]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def chosen_none() -> Selection:
    """Give a selection of another network."""
    index = UnitIndex.of(nn.Linear(2, 2), "layer")
    return Selection(index, torch.ones(len(index), dtype=torch.bool))


def _write_photographs(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    draw = torch.Generator().manual_seed(3)
    for name in ("one.png", "two.jpg"):
        pixels = torch.randint(256, (SIDE, SIDE, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)


def bert(**sizes: Any) -> nn.Module:
    """Give a tiny classifier of texts."""
    import transformers

    given = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "vocab_size": 32,
        "max_position_embeddings": 32,
        "num_labels": 2,
        **sizes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BertConfig(**given)
        return transformers.BertForSequenceClassification(config).eval()


def _write_folders(folder: Path) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import peft
    import tokenizers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    base = bert()
    target = tuned(base)
    for name, model, options in (
        ("base", base, {}),
        ("tuned", target, {}),
        ("sharded", target, {"max_shard_size": "8KB"}),
    ):
        model.save_pretrained(folder / name, **options)
        tokenizer.save_pretrained(folder / name)
    random_scores(target, reducer="attention_head").top(count=2).save(folder / "heads.safetensors")
    shutil.copytree(folder / "tuned", folder / "binary")
    (folder / "binary" / "model.safetensors").unlink()
    torch.save(target.state_dict(), folder / "binary" / "pytorch_model.bin")
    _write_cache(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
        adapted = peft.get_peft_model(copy.deepcopy(base), options)
        adapted.save_pretrained(folder / "adapter")
    lines = [
        {"text": f"{WORDS[n]} {WORDS[n + 1]} {WORDS[2 * n]}", "label": n % 2} for n in range(8)
    ]
    write_lines(folder / "texts.jsonl", lines)

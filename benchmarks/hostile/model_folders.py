"""Attacks on folders of Hugging Face: settings, weights, indexes, tokenizers, adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.hostile.attack import (
    Attack,
    Change,
    cut,
    empty,
    flipped,
    folder,
    holding,
    looped,
    removed,
)
from benchmarks.hostile.tensor_files import RunsCode, first_entry, length, with_nan

PAIR, SHARDED, ADAPTER, FACTORS = (
    "read_pair",
    "read_pair, sharded",
    "read_pair, adapter",
    "read_pair, factors",
)


def settings(**values: Any) -> Change:
    """Change some settings of a JSON file."""

    def change(path: Path) -> None:
        found = json.loads(path.read_text())
        found.update(values)
        path.write_text(json.dumps(found))

    return change


def shards(file: Callable[[str], str]) -> Change:
    """Change where an index says that the tensors are."""

    def change(path: Path) -> None:
        found = json.loads(path.read_text())
        found["weight_map"] = {name: file(own) for name, own in found["weight_map"].items()}
        path.write_text(json.dumps(found))

    return change


def outside(path: Path) -> None:
    """Let an index name files of the folder beside it."""
    shutil.copytree(path.parent, path.parent.parent / "elsewhere")
    for own in path.parent.glob("model-*.safetensors"):
        own.unlink()
    (path.parent / "model.safetensors").unlink(missing_ok=True)
    shards(lambda name: f"../elsewhere/{name}")(path)


def absolute(path: Path) -> None:
    """Let an index name a file of the system's."""
    shards(lambda name: "/etc/passwd")(path)


def code_in_bin(path: Path) -> None:
    """Put pickled code in the place of the weights."""
    path.unlink()
    torch.save({"weight": RunsCode()}, path.with_name("pytorch_model.bin"))


def other_base(path: Path) -> None:
    """Put the adapter of a base with twice the width in its place."""
    from safetensors.torch import load_file, save_file

    found = load_file(path)
    save_file({name: torch.cat([value, value], -1) for name, value in found.items()}, path)


def other_layers(path: Path) -> None:
    """Name layers that the base does not have."""
    from safetensors.torch import load_file, save_file

    found = load_file(path)
    save_file({n.replace("layer.1.", "layer.9."): v for n, v in found.items()}, path)


def other_ids(path: Path) -> None:
    """Let the tokenizer give numbers that the model has no embedding for."""
    found = json.loads(path.read_text())
    vocabulary = found["model"]["vocab"]
    found["model"]["vocab"] = {
        word: number + 1000 * word.startswith("word") for word, number in vocabulary.items()
    }
    path.write_text(json.dumps(found))


CONFIG: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "a link to itself": looped,
    "a folder": folder,
    "no encoding": holding(b"\xff\xfe{}"),
    "nested 50,000 deep": holding("[" * 50_000),
    "a list": holding("[1]"),
    "empty": holding("{}"),
    "architecture that is a number": settings(architectures=7),
    "architecture that is code": settings(architectures=["os"]),
    "10^9 layers": settings(num_hidden_layers=10**9),
    "-1 layers": settings(num_hidden_layers=-1),
    "width of 10^9": settings(hidden_size=10**9),
    "width that is text": settings(hidden_size="wide"),
    "vocabulary of 10^10": settings(vocab_size=10**10),
    "vocabulary of 10^8": settings(vocab_size=10**8),
    "10^9 labels": settings(id2label=None, num_labels=10**9),
}
WEIGHTS: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "a link to itself": looped,
    "a folder": folder,
    "missing": removed,
    "header claims 2^40 bytes": length(2**40),
    "unknown dtype": first_entry(dtype="F99"),
    "a bit of the header flipped": flipped(0.1),
}
INDEX: dict[str, Change] = {
    "zero bytes": empty,
    "no JSON": holding("{"),
    "nested 50,000 deep": holding("[" * 50_000),
    "no map": holding("{}"),
    "a map that is a list": settings(weight_map=[1]),
    "files that are numbers": settings(weight_map={"a": 7}),
    "files outside its folder": outside,
    "a file of the system": absolute,
    "files that are missing": shards(lambda name: f"x{name}"),
}
TOKENIZER: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "a link to itself": looped,
    "no JSON": holding("{"),
    "numbers beyond the model's": other_ids,
}
ADAPTER_CONFIG: dict[str, Change] = {
    "zero bytes": empty,
    "nested 50,000 deep": holding("[" * 50_000),
    "a list": holding("[1]"),
    "empty": holding("{}"),
    "kind that is unknown": settings(peft_type="HAT"),
    "task that is a list": settings(task_type=[1]),
    "rank of 10^9": settings(r=10**9),
    "rank of 0": settings(r=0),
    "rank that is text": settings(r="two"),
    "modules that are not there": settings(target_modules=["hat"]),
    "a pattern that never ends": settings(target_modules="(a+)+$(.*)*" * 9),
}
ADAPTER_WEIGHTS: dict[str, Change] = {
    **{key: WEIGHTS[key] for key in ("zero bytes", "cut at two thirds", "missing", "a folder")},
    "another base, twice as wide": other_base,
    "another base, with more layers": other_layers,
}


def _every(call: str, file: str, changes: dict[str, Change], says: str | None = "") -> list[Attack]:
    return [
        Attack(call, file, name, change, says=Path(file).parent.name if says == "" else says)
        for name, change in changes.items()
    ]


ATTACKS = [
    *_every(PAIR, "tuned/config.json", CONFIG),
    *_every(PAIR, "tuned/model.safetensors", WEIGHTS),
    Attack(PAIR, "tuned/model.safetensors", "pickled code", code_in_bin, says="tuned"),
    *_every(SHARDED, "sharded/model.safetensors.index.json", INDEX),
    *_every("paramattr diff", "tuned/tokenizer.json", TOKENIZER, says="tokenizer"),
    Attack("paramattr diff", "tuned/model.safetensors", "NaN weights", with_nan, says="not finite"),
    Attack("paramattr diff", "tuned/model.safetensors", "cut at two thirds", cut, says="tuned"),
    Attack(
        "paramattr info, folder", "tuned/config.json", "nested 50,000 deep", holding("[" * 50_000)
    ),
    Attack("paramattr info, folder", "tuned/config.json", "a list", holding("[1]")),
    *_every(ADAPTER, "adapter/adapter_config.json", ADAPTER_CONFIG),
    *_every(ADAPTER, "adapter/adapter_model.safetensors", ADAPTER_WEIGHTS),
    Attack(
        FACTORS,
        "adapter/adapter_model.safetensors",
        "another base, twice as wide",
        other_base,
        says="adapter",
    ),
]

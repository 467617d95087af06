"""The calls that read files: of Python, and of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.material import compared, network, samples, tuned
from paramattr import (
    FAIG,
    Scores,
    Selection,
    load_state_dict,
)


def _attributed(folder: Path) -> None:
    baseline = load_state_dict(folder / "base.safetensors")
    FAIG(tuned(network()), baseline).attribute(*samples()[0], n_steps=1)


def _resumed(folder: Path) -> None:
    base = network()
    FAIG(tuned(base), base).score(
        samples(), reducer="layer", n_steps=1, checkpoint=folder / "progress.safetensors"
    )


def _pair(tuned: str, **options: Any) -> Callable[[Path], None]:
    def call(folder: Path) -> None:
        from paramattr.huggingface import read_pair

        read_pair(folder / "base", folder / tuned, **options)

    return call


def _texts(folder: Path) -> None:
    from paramattr.commands.diff.material import read_texts

    read_texts(folder / "texts.jsonl")


def _image(folder: Path) -> None:
    from blind_sr.data.images import read_image

    read_image(folder / "photographs" / "one.png")


def _photographs(folder: Path) -> None:
    from blind_sr.data.photographs import load_photographs

    load_photographs(folder / "photographs", crop=16)


def _saved(folder: Path) -> None:
    Scores.load(folder / "scores.safetensors").save(folder / "saved.safetensors")


def _applied(tuned: str) -> Callable[[Path], None]:
    words = ("--selection", "{}/heads.safetensors", "--base", "{}/base", "--out", "{}/out")
    return command("apply", f"{{}}/{tuned}", *words)


def command(*words: str) -> Callable[[Path], None]:
    """Make a call of the command line, with the folder in the place of `{}`."""

    def call(folder: Path) -> None:
        from paramattr import cli

        sys.argv = ["paramattr", *(word.replace("{}", str(folder)) for word in words)]
        cli.main()

    return call


CALLS: dict[str, Callable[[Path], Any]] = {
    "load_state_dict, safetensors": lambda f: load_state_dict(f / "state.safetensors"),
    "load_state_dict, torch.save": lambda f: load_state_dict(f / "state.pth"),
    "load_state_dict, old torch.save": lambda f: load_state_dict(f / "legacy.pth"),
    "attribute": _attributed,
    "Scores.save": _saved,
    "Scores.load": lambda f: Scores.load(f / "scores.safetensors"),
    "Selection.load": lambda f: Selection.load(f / "selection.safetensors"),
    "score, resumed": _resumed,
    "compare, resumed": compared,
    "read_pair": _pair("tuned"),
    "read_pair, sharded": _pair("sharded"),
    "read_pair, adapter": _pair("adapter"),
    "read_pair, factors": _pair("adapter", adapter="factors"),
    "read_pair, torch.save": _pair("binary"),
    "read_texts": _texts,
    "read_image": _image,
    "load_photographs": _photographs,
    "paramattr info, state": command("info", "{}/state.safetensors"),
    "paramattr info, scores": command("info", "{}/scores.safetensors"),
    "paramattr info, torch.save": command("info", "{}/state.pth"),
    "paramattr info, rows": command("info", "{}/rows.json"),
    "paramattr info, folder": command("info", "{}/tuned"),
    "paramattr apply": _applied("tuned"),
    "paramattr apply, torch.save": _applied("binary"),
    "paramattr apply, hub": _applied("hub/models--me--tuned/snapshots/main"),
    "paramattr diff": command(
        "diff", "{}/base", "{}/tuned", "--data", "{}/texts.jsonl", "--draws", "1", "--out", "{}/out"
    ),
    "paramattr blindsr mask": command(
        "blindsr",
        "mask",
        "--network",
        "srcnn",
        "--methods",
        "random",
        "--images",
        "{}/photographs",
        "--crop",
        "16",
        "--steps",
        "1",
        "--out",
        "{}/out",
    ),
    "paramattr blindsr restore": command(
        "blindsr",
        "restore",
        "{}/photographs/one.png",
        "--output",
        "{}/restored.png",
        "--network",
        "srcnn",
        "--filters",
        "blur",
        "--strength",
        "0.5",
        "--images",
        "{}/photographs",
        "--crop",
        "16",
        "--steps",
        "1",
    ),
}

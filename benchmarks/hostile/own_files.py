"""Attacks on files that paramattr wrote, also such whose checksum fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes

from benchmarks.hostile.attack import Attack, Change, cut, empty, flipped
from benchmarks.hostile.tensor_files import every
from paramattr.files.reading import load_tensors, save_state_dict


def metadata(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change what paramattr keeps beside the tensors, with everything else in order."""

    def changed(path: Path) -> None:
        tensors, found = load_tensors(path)
        replaced = change(found)
        save_state_dict(path, tensors, found if replaced is None else replaced)

    return changed


def raw_metadata(text: str) -> Change:
    """Put a text in the place of what paramattr keeps beside the tensors."""

    def changed(path: Path) -> None:
        path.write_bytes(save_bytes(load_bytes(path.read_bytes()), {"paramattr": text}))

    return changed


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the tensors of one of paramattr's files, with everything else in order."""

    def changed(path: Path) -> None:
        own, found = load_tensors(path)
        change(own)
        save_state_dict(path, own, found)

    return changed


OF_OURS: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "a bit of the data flipped": flipped(0.999),
    "a bit of the header flipped": flipped(0.3),
    "metadata nested 50,000 deep": raw_metadata("[" * 50_000),
    "metadata is a list": raw_metadata("[1]"),
    "metadata is no JSON": raw_metadata("{"),
    "without metadata": raw_metadata("{}"),
}


def _gone(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for name in [key for key in found if any(part in key for part in names)]:
            del found[name]

    return change


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for key in [key for key in found if key == name or key.startswith(name)]:
            found[key] = value(found[key]) if callable(value) else value

    return change


OF_UNITS: dict[str, Change] = {
    "labels out of range": tensors(_set("labels.", lambda t: t + 10**6)),
    "labels below -1": tensors(_set("labels.", lambda t: t - 5)),
    "labels that are no whole numbers": tensors(_set("labels.", lambda t: t.float())),
    "labels of another shape": tensors(_set("labels.", lambda t: t.new_zeros(3, 7))),
    "labels missing": tensors(_gone("labels.")),
    "groups of 10^15 units": metadata(_set("groups", [["a", 0, [10**15]]])),
    "groups that are text": metadata(_set("groups", "many")),
    "shapes missing": metadata(_gone("shapes")),
    "shapes below zero": metadata(_set("shapes", lambda s: {n: [-1] for n in s})),
}


ATTACKS = [
    Attack(
        "paramattr info, scores", "scores.safetensors", "a bit of the data flipped", flipped(0.999)
    ),
    Attack(
        "paramattr info, scores",
        "scores.safetensors",
        "groups of 10^15 units",
        OF_UNITS["groups of 10^15 units"],
    ),
    *every(
        "Scores.load",
        "scores.safetensors",
        {
            **OF_OURS,
            **OF_UNITS,
            "values missing": tensors(_gone("values")),
            "values of another shape": tensors(_set("values", lambda t: t[:3])),
            "NaN values": tensors(_set("values", lambda t: t * float("nan"))),
            "complex values": tensors(_set("values", lambda t: t.to(torch.complex64))),
            "unassigned is text": metadata(_set("unassigned", "some")),
            "samples is a list": metadata(_set("samples", [1])),
        },
    ),
    *every(
        "Selection.load",
        "selection.safetensors",
        {
            **OF_OURS,
            **OF_UNITS,
            "chosen missing": tensors(_gone("chosen")),
            "chosen of numbers": tensors(_set("chosen", lambda t: t.float())),
            "intervals of another shape": tensors(_set("intervals", lambda t: t[:1])),
            "scores": metadata(_set("kind", "scores")),
        },
    ),
    *every(
        "score, resumed",
        "progress.safetensors",
        {
            **OF_OURS,
            "notes missing": metadata(_gone("notes")),
            "notes are a list": metadata(_set("notes", [1])),
            "-1 batches": metadata(lambda m: next(iter(m["notes"].values())).update(batches=-1)),
            "batches are text": metadata(
                lambda m: next(iter(m["notes"].values())).update(batches="x")
            ),
            "10^9 batches": metadata(
                lambda m: next(iter(m["notes"].values())).update(batches=10**9)
            ),
            "sums missing": tensors(_gone("magnitudes")),
            "sums of another shape": tensors(_set("of ", lambda t: t.new_zeros(7, 7))),
            "NaN sums": tensors(
                _set("of ", lambda t: t * float("nan") if t.is_floating_point() else t)
            ),
            "other settings": metadata(_set("dtype", "float99")),
        },
    ),
    *every(
        "compare, resumed",
        "curve.safetensors",
        {
            **OF_OURS,
            "measurements of another shape": tensors(
                lambda t: t.update(
                    {k: v[:1] for k, v in t.items() if not k.startswith(("unedited", "baseline"))}
                )
            ),
            "NaN measurements": tensors(
                lambda t: t.update(
                    {
                        k: v * float("nan")
                        for k, v in t.items()
                        if not k.startswith(("unedited", "baseline"))
                    }
                )
            ),
        },
    ),
]

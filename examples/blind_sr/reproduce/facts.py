"""What was run, on what and where: the first paragraphs of the page."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import paramattr
from blind_sr.reproduce.steps import Folders, Size
from blind_sr.reproduce.tables import counted

LOOK = 100
"""Iterations below which a training shows only that it runs."""


def facts(
    command: str, size: Size, folders: Folders, device: str, names: Sequence[str]
) -> list[str]:
    """Say what was run, a paragraph each.

    Args:
        command: the command line.
        size: how much is computed.
        folders: of photographs.
        device: where.
        names: of the steps.
    """
    found = [
        f"Written by `{command}` with paramattr {paramattr.__version__} and torch "
        f"{torch.__version__} on {_where(device)}: {', '.join(_used(folders, names))}.",
        "The paper trains on DIV2K for a million iterations and measures whole photographs. What "
        "the networks here were trained on, and for how long, stands in the card beside the "
        "weights (`MODEL_CARD.md`); the size of every measurement stands with its table. Compare "
        "signs and ratios rather than values.",
    ]
    short = _short(size, names)
    if short:
        found.append(
            f"**A look, not a measurement**: {', and '.join(short)}. So few show that everything "
            "runs, and mean nothing else."
        )
    return found


def _used(folders: Folders, names: Sequence[str]) -> list[str]:
    trained = any(name.endswith("train") for name in names)
    predicted = any("-predict-" in name for name in names)
    found = any(name != "two-branch-train" for name in names)
    places = {
        "images": (found, "filters found and masked on"),
        "train": (trained, "trained on"),
        "fit": (predicted, "thresholds fitted on"),
        "test": (predicted, "degradations predicted on"),
    }
    return [
        f"{what} {'the photographs of scikit-image' if folder is None else folder.name}"
        for name, (is_used, what) in places.items()
        for folder in [folders[name]]
        if is_used
    ]


def _short(size: Size, names: Sequence[str]) -> list[str]:
    short = []
    if size.train_iterations < LOOK and "two-branch-train" in names:
        short.append(f"Table 1 after {counted(size.train_iterations, 'iteration')} of each network")
    if size.retrain_iterations < LOOK and any(name.endswith("-retrain") for name in names):
        short.append(
            f"Table 3 after {counted(size.retrain_iterations, 'iteration')} of each training"
        )
    return short


def _where(device: str) -> str:
    kind = torch.device(device).type
    if kind != "cuda":
        return "a CPU" if kind == "cpu" else device
    built = f" (CUDA {torch.version.cuda})" if torch.version.cuda else ""
    return torch.cuda.get_device_name(device) + built

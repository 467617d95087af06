"""The installation: its versions, devices and extras."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

import torch

EXTRAS = {
    "cli": ("rich", "typer"),
    "captum": ("captum",),
    "plots": ("matplotlib",),
    "hf": ("peft", "transformers"),
    "blindsr": ("pillow", "scikit-image", "torchmetrics"),
}
"""Each extra's own packages."""
CORE = ("paramattr", "torch", "numpy", "safetensors", "jaxtyping")


def examine() -> dict[str, Any]:
    """List versions, devices, extras and studies, in kinds that JSON knows.

    >>> examine()["versions"]["torch"] == version("torch")
    True
    """
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in CORE},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "devices": ["cpu", *_gpus()],
        "studies": sorted(point.name for point in entry_points(group="paramattr.studies")),
    }


def missing(found: dict[str, Any]) -> list[str]:
    """Name the extras that lack a package, each with the way to it."""
    return [
        f"{extra}: {', '.join(name for name, own in names.items() if own is None)} not installed; "
        f"pip install 'paramattr[{extra}]'"
        for extra, names in found["extras"].items()
        if None in names.values()
    ]


def _gpus() -> list[str]:
    found = [
        f"cuda:{number} {torch.cuda.get_device_name(number)}"
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

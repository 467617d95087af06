"""One branch or two: networks of one size trained alike on blind super-resolution (Tab. 1)."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from blind_sr.networks import build
from blind_sr.training import Recipe, check_free, train_stage

NETWORKS = {"two-branch": "two-branch", "one-branch": "srresnet"}
CONDITIONS = ("clean", "blur", "noise", "both")


def train_both(
    recipe: Recipe,
    photographs: Sequence[UInt8[Tensor, "3 h w"]],
    held_out: Float[Tensor, "n 3 s s"],
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the two-branch network and an SRResNet of its size, from scratch, on the same patches.

    Args:
        recipe: of the two-branch network's stage `"target"`; the other's differs in the network.
        photographs: as in `train_stage`.
        held_out: as in `train_stage`.
        out: folder of both, and of `branches.json`.
        resume: as in `train_stage`.
        force: as in `train_stage`.
        console: as in `train_stage`.

    Returns:
        `iterations`, and for each network its number of `parameters` and the `psnr` in dB on the
        held-out photographs by condition, of the weights that were kept.

    Raises:
        CheckpointError: as `train_stage`, for either network, before any work.
    """
    out = Path(out)
    recipes = {
        name: replace(recipe, network=network, name=f"{name}_target")
        for name, network in NETWORKS.items()
    }
    for one in recipes.values():
        check_free(one, out, resume=resume, force=force)
    found = {}
    for name, one in recipes.items():
        weights = train_stage(
            one, photographs, held_out, out, resume=resume, force=force, console=console
        )
        with weights.with_suffix(".csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        best = max(rows, key=lambda row: sum(float(row[f"psnr_{c}"]) for c in CONDITIONS))
        found[name] = {
            "parameters": sum(p.numel() for p in build(one.network).parameters()),
            "psnr": {c: float(best[f"psnr_{c}"]) for c in CONDITIONS},
        }
    result = {"iterations": recipe.iterations, "networks": found}
    (out / "branches.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def branches_table(result: dict[str, Any]) -> Table:
    """Lay both networks out side by side."""
    table = Table(title=f"PSNR in dB after {result['iterations']:,} iterations each")
    table.add_column("network")
    for heading in ("parameters", "clean", "blurry", "noisy", "both"):
        table.add_column(heading, justify="right")
    for name, own in result["networks"].items():
        quality = (f"{own['psnr'][condition]:.2f}" for condition in CONDITIONS)
        table.add_row(name, f"{own['parameters']:,}", *quality)
    return table

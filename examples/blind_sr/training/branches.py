"""One branch or two: networks of one size trained alike on blind super-resolution (Tab. 1)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor

from blind_sr.models.networks import build
from blind_sr.run import write_json
from blind_sr.training.recipe import STAGES, Recipe
from blind_sr.training.trainer import check_free, train_stage

BRANCHES = {"two-branch": "two-branch", "one-branch": "srresnet"}
"""Name of a branch to its network."""


@dataclass(frozen=True)
class Branch:
    """One of the two networks, trained.

    Attributes:
        parameters: how many it has.
        psnr: in dB on the held-out photographs by condition, of the weights that were kept.
    """

    parameters: int
    psnr: dict[str, float]


@dataclass(frozen=True)
class Branches:
    """Both networks, trained alike.

    Attributes:
        iterations: of each.
        networks: `"two-branch"` and `"one-branch"`.
    """

    iterations: int
    networks: dict[str, Branch]

    @property
    def content(self) -> dict[str, Any]:
        """All of it, of the kinds JSON knows."""
        return asdict(self)


def train_both(
    recipe: Recipe,
    photographs: Sequence[UInt8[Tensor, "3 h w"]],
    held_out: Float[Tensor, "n 3 s s"],
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> Branches:
    """Train the two-branch network and an SRResNet of its size, from scratch, on the same patches.

    Args:
        recipe: of the two-branch network's stage `"target"`; the other's differs in the network.
        photographs: as in `train_stage`.
        held_out: as in `train_stage`.
        out: folder of both, and of `branches.json`.
        resume: as in `train_stage`.
        force: as in `train_stage`.
        console: as in `train_stage`.

    Raises:
        CheckpointError: as `train_stage`, for either network, before any work.
    """
    out = Path(out)
    recipes = {
        name: replace(recipe, network=network, name=f"{name}_target")
        for name, network in BRANCHES.items()
    }
    for one in recipes.values():
        check_free(one, out, resume=resume, force=force)
    found = {}
    conditions = STAGES[recipe.stage][1]
    for name, one in recipes.items():
        weights = train_stage(
            one, photographs, held_out, out, resume=resume, force=force, console=console
        )
        with weights.with_suffix(".csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        best = max(rows, key=lambda row: sum(float(row[f"psnr_{c}"]) for c in conditions))
        parameters = sum(p.numel() for p in build(one.network).parameters())
        found[name] = Branch(parameters, {c: float(best[f"psnr_{c}"]) for c in conditions})
    result = Branches(recipe.iterations, found)
    write_json(out / "branches.json", result.content)
    return result

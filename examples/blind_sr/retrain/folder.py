"""The folder of a retraining: its recipe, the filters found, and the trainings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.pairs import Pair
from blind_sr.rankings.search import search_filters
from blind_sr.run import read_stamp, write_json
from blind_sr.setting import Setting
from paramattr import Selection
from paramattr.errors import CheckpointError
from paramattr.files.resume import check_stamp

Selections = dict[str, dict[str, list[Selection]]]
"""Method, then function, to one selection or, for random, one per seed."""


class Folder:
    """What a run keeps so that it resumes: `recipe.json`, selections, trainings.

    Args:
        path: the folder, made by `claim`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.json"
        self.selections = self.path / "selections"
        self.running = self.path / "running"
        self.trainings = self.path / "trainings"

    def claim(self, options: Mapping[str, Any], *, force: bool) -> None:
        """Take the folder for these options, or refuse one that was made with others.

        Args:
            options: all that decides the outcome of a training, of the kinds JSON knows.
            force: start afresh over what is there.

        Raises:
            CheckpointError: naming the options that differ.
        """
        if self.recipe.exists() and force:
            for folder in (self.selections, self.running, self.trainings):
                shutil.rmtree(folder, ignore_errors=True)
        elif self.recipe.exists():
            made = read_stamp(self.recipe)
            if made is None:
                raise CheckpointError(
                    f"file {self.recipe} cannot be read: expected the options of a retraining; "
                    "give another folder (--out), or --force to start afresh"
                )
            way_out = "give the same options, another folder (--out), or --force to start afresh"
            check_stamp(made, options, f"folder {self.path}", way_out)
        write_json(self.recipe, dict(options))

    def selection(self, method: str, function: str, number: int) -> Path:
        """Name the file of one selection."""
        return self.selections / f"{method}_{function}_{number}.safetensors"

    def missing(self, methods: Sequence[str], seeds: int) -> list[str]:
        """List the methods whose filters are still to be found."""
        return [
            method
            for method in methods
            if not all(
                self.selection(method, function, number).exists()
                for function in MASKS
                for number in range(_rankings_of(method, seeds))
            )
        ]


def select(
    setting: Setting,
    pair: Pair,
    photographs: Photographs,
    methods: Sequence[str],
    folder: Folder,
    *,
    pct: float,
    seeds: int = 1,
) -> Selections:
    """Find the filters of each method and function, once: later calls read them from the folder.

    Args:
        setting: of the experiment.
        pair: its pair.
        photographs: on which the functions show.
        methods: of `labels.METHODS`.
        folder: where they are kept.
        pct: share of the filters, in percent.
        seeds: how many random selections.
    """
    missing = folder.missing(methods, seeds)
    if missing:
        options = {"random_seeds": seeds, "checkpoints": folder.running}
        rankings = search_filters(setting, pair, photographs, missing, **options)
        for method, functions in rankings.items():
            for function, several in functions.items():
                for number, scores in enumerate(several):
                    file = folder.selection(method, function, number)
                    if not file.exists():
                        scores.top(fraction=pct / 100).save(file)
        shutil.rmtree(folder.running, ignore_errors=True)
    return {
        method: {
            function: [
                Selection.load(folder.selection(method, function, number))
                for number in range(_rankings_of(method, seeds))
            ]
            for function in MASKS
        }
        for method in methods
    }


def _rankings_of(method: str, seeds: int) -> int:
    return seeds if method == "random" else 1

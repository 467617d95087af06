"""Tab. 3: from the baseline, only the filters that were found are retrained, on one degradation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from blind_sr.networks import load
from blind_sr.rankings import find_filters
from blind_sr.study import MASKS, Advance, Pair, Photographs, quality, restore
from blind_sr.training import Recipe, train_stage
from paramattr import Selection
from paramattr.checkpoints import content, fingerprint, load_state_dict, load_tensors
from paramattr.errors import CheckpointError, ParamattrError

Selections = dict[str, dict[str, list[Selection]]]
"""Method, then function, to one selection or, for random, one a seed."""


@dataclass(frozen=True)
class Training:
    """One retraining, and the columns of the table that it stands for.

    Attributes:
        name: of its files.
        method: what found the filters, or `"all"`.
        filters: whose they are: one function, both where a method finds the same, or `"all"`.
        input: the degradation, `"blur"` or `"noise"`.
        seed: of its patches.
        selection: the entries that are trained; None for all.
    """

    name: str
    method: str
    filters: tuple[str, ...]
    input: str
    seed: int
    selection: Selection | None


class Folder:
    """What a run keeps so that it goes on where it stopped: `recipe.json`, selections, trainings.

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
            try:
                made = dict(json.loads(self.recipe.read_text()))
            except (ValueError, TypeError):
                raise CheckpointError(
                    f"file {self.recipe} cannot be read: expected the options of a retraining; "
                    "give another folder (--out), or --force to start afresh"
                ) from None
            changed = [name for name, value in options.items() if made.get(name) != value]
            if changed:
                raise CheckpointError(
                    f"folder {self.path} holds retrainings made with other options: "
                    + ", ".join(f"{n} was {made.get(n)}, now {options[n]}" for n in changed)
                    + "; give the same options, another folder (--out), or --force to start afresh"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.recipe.with_suffix(".partial")
        partial.write_text(json.dumps(dict(options), indent=1) + "\n")
        partial.replace(self.recipe)

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
    pair: Pair,
    photographs: Photographs,
    methods: Sequence[str],
    folder: Folder,
    *,
    pct: float,
    seeds: int = 1,
    n_steps: int = 8,
    advance: Advance = lambda amount: None,
) -> Selections:
    """Find the filters of each method and function, once: later calls read them from the folder.

    Args:
        pair: baseline and target.
        photographs: on which the functions show.
        methods: of `rankings.METHODS`.
        folder: where they are kept.
        pct: share of the filters, in percent.
        seeds: how many random selections.
        n_steps: nodes of the quadrature rule.
        advance: see `rankings.find_filters`.
    """
    missing = folder.missing(methods, seeds)
    if missing:
        rankings = find_filters(
            pair,
            photographs,
            missing,
            n_steps=n_steps,
            random_seeds=seeds,
            checkpoints=folder.running,
            advance=advance,
        )
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


def plan(selections: Selections, seeds: int = 1) -> list[Training]:
    """List the trainings of Tab. 3, seed by seed; what is the same for both functions once.

    Args:
        selections: of `select`.
        seeds: how often each is repeated, with other patches and, for random, other filters.
    """
    found = []
    for seed in range(seeds):
        for condition in MASKS:
            name = f"all_on_{condition}_{seed}"
            found.append(Training(name, "all", ("all",), condition, seed, None))
        for method, functions in selections.items():
            own = {f: several[min(seed, len(several) - 1)] for f, several in functions.items()}
            alike = own["blur"] == own["noise"]
            for filters in (MASKS,) if alike else (("blur",), ("noise",)):
                for condition in MASKS:
                    name = "_".join([method, *filters, "on", condition, str(seed)])
                    selection = own[filters[0]]
                    found.append(Training(name, method, filters, condition, seed, selection))
    return found


def retrain(
    training: Training,
    pair: Pair,
    photographs: Sequence[UInt8[Tensor, "3 h w"]],
    recipe: Recipe,
    folder: Folder,
    *,
    console: Console | None = None,
) -> Path:
    """Train what is selected from the baseline on, unless that is done.

    Args:
        training: what is trained.
        pair: whose baseline it starts from.
        photographs: 8-bit training photographs.
        recipe: how; stage, seed, name and selection are put in.
        folder: where the weights go.
        console: where to draw the progress bar; none by default.

    Returns:
        The path of the averaged weights. Outside the selection they are the baseline's, to the
        bit: this was checked.

    Raises:
        CheckpointError: if the folder holds a training of this name by another recipe.
        ParamattrError: if a weight outside the selection has changed.
    """
    selection = training.selection
    recipe = replace(
        recipe,
        stage=training.input,
        seed=training.seed,
        name=training.name,
        selection="" if selection is None else fingerprint([{"chosen": selection.chosen}])[:16],
    )
    weights = folder.trainings / f"{training.name}.safetensors"
    start = pair.baseline.state_dict()
    if not weights.exists():
        train_stage(
            recipe,
            photographs,
            None,
            folder.trainings,
            initial=start,
            selection=selection,
            resume=True,
            console=console,
        )
    made = load_tensors(weights)[1]
    changed = [name for name, value in asdict(recipe).items() if made.get(name) != value]
    if changed:
        raise CheckpointError(
            f"weights {weights} were made with another recipe: "
            + ", ".join(f"{name} was {made.get(name)!r}" for name in changed)
            + "; remove them, or give another folder (--out)"
        )
    if selection is not None:
        check_unchanged(load_state_dict(weights), start, selection, training.name)
    weights.with_suffix(".ckpt").unlink(missing_ok=True)
    return weights


def check_unchanged(
    state: Mapping[str, Tensor], start: Mapping[str, Tensor], selection: Selection, name: str
) -> None:
    """Compare every weight outside the selection with the baseline's, bit by bit.

    Raises:
        ParamattrError: naming the first parameter that differs; `name` says of which training.
    """
    selected = set(selection.index.labels)
    for parameter, value in start.items():
        rest = torch.ones(value.shape, dtype=torch.bool)
        if parameter in selected:
            rest = ~selection.mask(parameter)
        if content(state[parameter].cpu()[rest]) != content(value.cpu()[rest]):
            raise ParamattrError(
                f"training {name} changed {parameter!r} outside the selection: expected the "
                "baseline's bits there; start afresh (--force), and report it if it comes again"
            )


def rows(
    trainings: Sequence[Training],
    pair: Pair,
    photographs: Sequence[UInt8[Tensor, "3 h w"]],
    test: Photographs,
    recipe: Recipe,
    folder: Folder,
    *,
    all_rate: float | None = None,
    console: Console | None = None,
) -> Iterator[dict[str, Any]]:
    """Retrain and measure: a row a training and kind of filters, as each training ends.

    Args:
        trainings: of `plan`.
        pair: whose baseline they start from.
        photographs: 8-bit training photographs.
        test: photographs to measure on.
        recipe: of `retrain`.
        folder: where the weights go.
        all_rate: peak learning rate where all weights are trained; the recipe's by default.
        console: where to draw progress bars; none by default.

    Yields:
        `method`, `filters`, `input`, `psnr` in dB, `seed`.
    """
    for training in trainings:
        own = recipe
        if training.selection is None and all_rate is not None:
            own = replace(recipe, learning_rate=all_rate)
        weights = retrain(training, pair, photographs, own, folder, console=console)
        model = load(pair.network, weights).to(recipe.device).eval()
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        outputs = restore(model, test, [training.input])
        for filters in training.filters:
            yield {
                "method": training.method,
                "filters": filters,
                "input": training.input,
                "psnr": quality(outputs, test)[training.input],
                "seed": training.seed,
            }


def _rankings_of(method: str, seeds: int) -> int:
    return seeds if method == "random" else 1

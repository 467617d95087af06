"""The trainings of Tab. 3: from the baseline, only the filters found, on one degradation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from blind_sr.data.photographs import Photographs
from blind_sr.labels import MASKS
from blind_sr.models.networks import load
from blind_sr.models.outputs import quality, restore
from blind_sr.models.pairs import Pair
from blind_sr.retrain.folder import Folder, Selections
from blind_sr.training.recipe import Recipe
from blind_sr.training.trainer import train_stage
from paramattr import Selection
from paramattr.errors import ParamattrError
from paramattr.files.reading import content, fingerprint, load_state_dict, load_tensors
from paramattr.files.resume import check_stamp


class Row(TypedDict):
    """What one training gave, for one kind of filters."""

    method: str
    filters: str
    input: str
    psnr: float
    seed: int


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


def plan(selections: Selections, seeds: int = 1) -> list[Training]:
    """List the trainings of Tab. 3, seed by seed; what is the same for both functions once.

    Args:
        selections: of `folder.select`.
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


def train(
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
        The path of the averaged weights. Outside the selection they are the baseline's, bit for
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
    check_stamp(
        {name: made.get(name) for name in asdict(recipe)},
        asdict(recipe),
        f"weights {weights}",
        "remove them, or give another folder (--out)",
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


def measured_rows(
    trainings: Sequence[Training],
    pair: Pair,
    photographs: Sequence[UInt8[Tensor, "3 h w"]],
    test: Photographs,
    recipe: Recipe,
    folder: Folder,
    *,
    all_rate: float | None = None,
    console: Console | None = None,
) -> Iterator[Row]:
    """Retrain and measure: a row per training and kind of filters, as each training ends.

    Args:
        trainings: of `plan`.
        pair: whose baseline they start from.
        photographs: 8-bit training photographs.
        test: photographs to measure on.
        recipe: of `train`.
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
        weights = train(training, pair, photographs, own, folder, console=console)
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

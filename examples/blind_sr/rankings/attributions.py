"""The methods that look at data: what each attributes, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from blind_sr.data.photographs import Photographs
from blind_sr.models.pairs import Pair
from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    Scores,
    fisher_times_change,
    gradient_times_change,
)
from paramattr.methods.captum import CAPTUM_METHODS, captum_scores
from paramattr.runtime.torchrun import is_joined


@dataclass(frozen=True)
class Search:
    """What the filters are sought in, and how: see `search.find_filters`."""

    pair: Pair
    units: str
    n_steps: int
    rule: str
    seed: int
    random_seeds: int


@dataclass(frozen=True)
class Attribution:
    """A method that looks at data.

    Attributes:
        score: the search, batches and a checkpoint's path (or None) to scores.
        batches: photographs and a condition to the batches that it attributes.
    """

    score: Callable[[Search, Iterator[Any], Path | None], Scores]
    batches: Callable[[Photographs, str], list[Any]] = Photographs.pairs


def _faig(search: Search, data: Iterator[Any], checkpoint: Path | None) -> Scores:
    faig = FAIG(search.pair.target, search.pair.baseline, dtype=search.pair.mixed)
    return faig.score(
        data,
        reducer=search.units,
        n_steps=search.n_steps,
        method=search.rule,
        checkpoint=checkpoint,
        distributed=is_joined(),
    )


def _input_path(search: Search, data: Iterator[Any], checkpoint: Path | None) -> Scores:
    return InputPathIntegratedGradients(search.pair.target).score(
        data,
        reducer=search.units,
        n_steps=search.n_steps,
        method=search.rule,
        checkpoint=checkpoint,
        distributed=is_joined(),
    )


def _taylor(place: str, search: Search, data: Iterator[Any], checkpoint: Path | None) -> Scores:
    target, baseline = search.pair.target, search.pair.baseline
    return gradient_times_change(
        target,
        baseline,
        data,
        reducer=search.units,
        at=place,
        checkpoint=checkpoint,
        distributed=is_joined(),
    )


def _fisher(search: Search, data: Iterator[Any], checkpoint: Path | None) -> Scores:
    target, baseline = search.pair.target, search.pair.baseline
    return fisher_times_change(
        target,
        baseline,
        data,
        reducer=search.units,
        checkpoint=checkpoint,
        distributed=is_joined(),
    )


def _captum(name: str, search: Search, data: Iterator[Any], checkpoint: Path | None) -> Scores:
    target = search.pair.target
    layers = [n for n, module in target.named_modules() if isinstance(module, nn.Conv2d)]
    return captum_scores(
        name,
        target,
        layers,
        data,
        n_steps=search.n_steps,
        quadrature=search.rule,
        distributed=is_joined(),
    )


def _from_clean(photographs: Photographs, condition: str) -> list[Any]:
    return list(zip(photographs.low[condition], photographs.low["clean"], strict=True))


def _with_clean(photographs: Photographs, condition: str) -> list[Any]:
    return list(zip(_from_clean(photographs, condition), photographs.high, strict=True))


ATTRIBUTIONS = {
    "faig": Attribution(_faig),
    "ig": Attribution(_input_path, _from_clean),
    "taylor-target": Attribution(partial(_taylor, "target")),
    "taylor-middle": Attribution(partial(_taylor, "middle")),
    "taylor-baseline": Attribution(partial(_taylor, "baseline")),
    "fisher": Attribution(_fisher),
    **{name: Attribution(partial(_captum, name), _with_clean) for name in CAPTUM_METHODS},
}
"""Name to method. None of them is contrasted: `methods` does that, for all alike."""

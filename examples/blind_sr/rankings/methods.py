"""The methods of the study: each is a name and a rule from attributions to rankings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blind_sr.labels import ATTRIBUTION_LABELS, CAPTUM, LABELS, MASKS, METHODS, NO_CONTRAST, UNITS
from blind_sr.rankings.attributions import Search
from paramattr import (
    Scores,
    absolute_change,
    contrast,
    random_scores,
    random_within_layers,
    weight_magnitude,
)
from paramattr.errors import ParamattrError

Plain = dict[str, Scores]
"""Condition to scores of the photographs in this condition, without a contrast."""
Ranked = dict[str, list[Scores]]
"""Function to one ranking or, for random, one per seed."""


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes:
        rank: the search, and the scores of its attribution, to the rankings per function.
        attribution: name of the one that it ranks by; none for a method without data.
    """

    rank: Callable[[Search, Plain], Ranked]
    attribution: str = ""


def _alone(search: Search, plain: Plain) -> Ranked:
    return {function: [scores] for function, scores in plain.items()}


def _contrasted(search: Search, plain: Plain) -> Ranked:
    return {
        function: [contrast(scores, *(plain[other] for other in plain if other != function))]
        for function, scores in plain.items()
    }


def _within_layers(search: Search, plain: Plain) -> Ranked:
    return {
        function: [random_within_layers(scores, seed=search.seed)]
        for function, [scores] in _contrasted(search, plain).items()
    }


def _absolute_change(search: Search, plain: Plain) -> Ranked:
    target, baseline = search.pair.target, search.pair.baseline
    return _alike([absolute_change(target, baseline, reducer=search.units)])


def _weight_magnitude(search: Search, plain: Plain) -> Ranked:
    return _alike([weight_magnitude(search.pair.target, reducer=search.units)])


def _random(search: Search, plain: Plain) -> Ranked:
    seeds = range(search.seed, search.seed + search.random_seeds)
    target, units = search.pair.target, search.units
    return _alike([random_scores(target, reducer=units, seed=seed) for seed in seeds])


def _alike(rankings: list[Scores]) -> Ranked:
    return dict.fromkeys(MASKS, rankings)


RANKED_BY: dict[str, Method] = {
    **{name: Method(_contrasted, name) for name in ATTRIBUTION_LABELS},
    **{f"{name}{NO_CONTRAST}": Method(_alone, name) for name in ATTRIBUTION_LABELS},
    "absolute-change": Method(_absolute_change),
    "weight-magnitude": Method(_weight_magnitude),
    "random-within-layers": Method(_within_layers, "faig"),
    "random": Method(_random),
}
"""Name of a method to its rule."""
_SLOW = ("layer-feature-ablation",)  # a run of the network for each channel: hours, unless named


def named(methods: str, units: str = "kernel") -> list[str]:
    """Read what a person gave: names separated by commas, or 'all' that these units have.

    Raises:
        ParamattrError: for an unknown method or units, or one that has no such units.
    """
    if units not in UNITS:
        raise ParamattrError(f"units {units!r} are not known: expected {' or '.join(UNITS)}")
    if methods == "all":
        captum = CAPTUM if units == "output_channel" else ()
        return [*METHODS, *(name for name in captum if RANKED_BY[name].attribution not in _SLOW)]
    found = list(dict.fromkeys(method.strip() for method in methods.split(",")))
    check_methods(found, units)
    return found


def check_methods(methods: Sequence[str], units: str = "kernel") -> None:
    """Refuse methods that the study does not have, or not for these units.

    Raises:
        ParamattrError: naming the first such method.
    """
    for method in methods:
        if method not in RANKED_BY:
            raise ParamattrError(
                f"method {method!r} is not known: expected some of {', '.join(LABELS)}"
            )
        if units == "kernel" and method in CAPTUM:
            raise ParamattrError(
                f"method {method!r} has no single filters: Captum attributes to a layer's output "
                "channels; compare it with the others there (--units output_channel)"
            )


def attributions_of(methods: Sequence[str]) -> list[str]:
    """List what has to be attributed for some methods, each once."""
    wanted = (RANKED_BY[method].attribution for method in methods)
    return [name for name in dict.fromkeys(wanted) if name]

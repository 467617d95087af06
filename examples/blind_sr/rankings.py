"""The filters ranked by each method, for each function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blind_sr.attributions import ATTRIBUTIONS, Search
from blind_sr.study import MASKS, Advance, Pair, Photographs, Rankings
from paramattr import (
    Scores,
    absolute_change,
    contrast,
    random_scores,
    random_within_layers,
    weight_magnitude,
)
from paramattr.attribution.captum import CAPTUM_METHODS
from paramattr.errors import ParamattrError
from paramattr.quadrature import get_rule

BASIC = ("faig", "faig-no-contrast", "absolute-change", "random")
UNITS = ("kernel", "output_channel")
NO_CONTRAST = "-no-contrast"
"""What the name of a method ends in that leaves the other function's scores alone."""


Plain = dict[str, Scores]
"""Condition to scores of the photographs in this condition, without a contrast."""


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes:
        label: what people read.
        rank: the search, and the scores of its attribution, to the rankings per function.
        attribution: name of the one that it ranks by; none for a method without data.
    """

    label: str
    rank: Callable[[Search, Plain], dict[str, list[Scores]]]
    attribution: str = ""


def _alone(search: Search, plain: Plain) -> dict[str, list[Scores]]:
    return {function: [scores] for function, scores in plain.items()}


def _contrasted(search: Search, plain: Plain) -> dict[str, list[Scores]]:
    return {
        function: [contrast(scores, *(plain[other] for other in plain if other != function))]
        for function, scores in plain.items()
    }


def _within_layers(search: Search, plain: Plain) -> dict[str, list[Scores]]:
    return {
        function: [random_within_layers(scores, seed=search.seed)]
        for function, [scores] in _contrasted(search, plain).items()
    }


def _absolute_change(search: Search, plain: Plain) -> dict[str, list[Scores]]:
    target, baseline = search.pair.target, search.pair.baseline
    return _alike([absolute_change(target, baseline, reducer=search.units)])


def _weight_magnitude(search: Search, plain: Plain) -> dict[str, list[Scores]]:
    return _alike([weight_magnitude(search.pair.target, reducer=search.units)])


def _random(search: Search, plain: Plain) -> dict[str, list[Scores]]:
    seeds = range(search.seed, search.seed + search.random_seeds)
    target, units = search.pair.target, search.units
    return _alike([random_scores(target, reducer=units, seed=seed) for seed in seeds])


def _alike(rankings: list[Scores]) -> dict[str, list[Scores]]:
    return dict.fromkeys(MASKS, rankings)


_CONTRASTED = {name: Method(own.label, _contrasted, name) for name, own in ATTRIBUTIONS.items()}
_TWINS = {
    f"{name}{NO_CONTRAST}": Method(f"{own.label}, no contrast", _alone, name)
    for name, own in ATTRIBUTIONS.items()
}
_DRIVEN = [name for pair in zip(_CONTRASTED, _TWINS, strict=True) for name in pair]
_TABLE: dict[str, Method] = {
    **{name: (_CONTRASTED | _TWINS)[name] for name in _DRIVEN},
    "absolute-change": Method("|change|", _absolute_change),
    "weight-magnitude": Method("|weight|", _weight_magnitude),
    "random-within-layers": Method("random in layers", _within_layers, "faig"),
    "random": Method("random", _random),
}
LABELS = {name: method.label for name, method in _TABLE.items()} | {
    f"ig{NO_CONTRAST}": "modified IG, no contrast (the paper's)"
}
"""Every method of the study and what people read."""
CAPTUM = tuple(name for name, m in _TABLE.items() if m.attribution in CAPTUM_METHODS)
"""Captum's methods attribute to a layer's output channels: they have no single filters."""
METHODS = tuple(name for name in _TABLE if name not in CAPTUM)
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
        return [*METHODS, *(method for method in captum if _TABLE[method].attribution not in _SLOW)]
    found = list(dict.fromkeys(method.strip() for method in methods.split(",")))
    check_methods(found, units)
    return found


def check_methods(methods: Sequence[str], units: str = "kernel") -> None:
    """Refuse methods that the study does not have, or not for these units.

    Raises:
        ParamattrError: naming the first such method.
    """
    for method in methods:
        if method not in _TABLE:
            raise ParamattrError(
                f"method {method!r} is not known: expected some of {', '.join(_TABLE)}"
            )
        if units == "kernel" and method in CAPTUM:
            raise ParamattrError(
                f"method {method!r} has no single filters: Captum attributes to a layer's output "
                "channels; compare it with the others there (--units output_channel)"
            )


def find_filters(
    pair: Pair,
    photographs: Photographs,
    methods: Sequence[str] = BASIC,
    *,
    units: str = "kernel",
    n_steps: int = 8,
    method: str = "gausslegendre",
    seed: int = 0,
    random_seeds: int = 3,
    checkpoints: str | Path | None = None,
    advance: Advance = lambda amount: None,
) -> Rankings:
    """Rank the units by each method, for each function.

    Every method that looks at data is contrasted: the other function's scores are subtracted
    (Eq. 7). Its twin, whose name ends in `-no-contrast`, ranks by the same attributions without
    that; a method and its twin attribute once.

    Args:
        pair: baseline and target.
        photographs: on which the functions show.
        methods: of `METHODS`, and of `CAPTUM` for output channels.
        units: `"kernel"` (the paper's filters) or `"output_channel"`.
        n_steps: nodes of the rule, of the methods that integrate.
        method: name of the quadrature rule.
        seed: first seed of the random rankings.
        random_seeds: how many random rankings.
        checkpoints: folder that keeps the running sums, so that a call that is repeated after an
            error or a kill resumes.
        advance: called with the number of photographs attributed since it was last called; see
            `attributed`.

    Raises:
        ParamattrError: for an unknown method, before any work.
    """
    check_methods(methods, units)
    get_rule(method, n_steps)
    search = Search(pair, units, n_steps, method, seed, random_seeds)

    def score(name: str, condition: str) -> Scores:
        attribution = ATTRIBUTIONS[name]
        data = _counted(attribution.batches(photographs, condition), advance)
        file = Path(checkpoints) / f"{name}_{condition}.safetensors" if checkpoints else None
        return attribution.score(search, data, file)

    plain: dict[str, Plain] = {
        name: {condition: score(name, condition) for condition in MASKS}
        for name in _attributions_of(methods)
    }
    return {
        name: _TABLE[name].rank(search, plain.get(_TABLE[name].attribution, {})) for name in methods
    }


def attributed(methods: Sequence[str], photographs: Photographs) -> int:
    """Count the photographs that `find_filters` attributes: what its progress runs to."""
    return len(_attributions_of(methods)) * len(MASKS) * len(photographs.names)


def _attributions_of(methods: Sequence[str]) -> list[str]:
    wanted = (_TABLE[method].attribution for method in methods)
    return [name for name in dict.fromkeys(wanted) if name]


def _counted(pairs: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for pair in pairs:
        yield pair
        advance(1)

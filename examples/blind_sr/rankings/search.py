"""The search for filters: every method ranks them, for each function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blind_sr.data.photographs import Photographs
from blind_sr.labels import BASIC, MASKS
from blind_sr.models.pairs import Pair
from blind_sr.rankings.attributions import ATTRIBUTIONS, Search
from blind_sr.rankings.methods import RANKED_BY, Plain, Ranked, attributions_of, check_methods
from blind_sr.run import Advance, progress, unseen
from blind_sr.setting import Setting
from paramattr import Scores, Selection
from paramattr.quadrature import get_rule

Rankings = dict[str, Ranked]
"""Method, then function, to one ranking or, for random, one per seed."""


def find_filters(
    pair: Pair,
    photographs: Photographs,
    methods: Sequence[str] = BASIC,
    *,
    units: str = "kernel",
    n_steps: int = 4,
    method: str = "gausslegendre",
    seed: int = 0,
    random_seeds: int = 3,
    checkpoints: str | Path | None = None,
    advance: Advance = unseen,
) -> Rankings:
    """Rank the units by each method, for each function.

    Every method that looks at data is contrasted: the other function's scores are subtracted
    (Eq. 7). Its twin, whose name ends in `-no-contrast`, ranks by the same attributions without
    that; a method and its twin attribute once.

    Args:
        pair: baseline and target.
        photographs: on which the functions show.
        methods: of `labels.METHODS`, and of `labels.CAPTUM` for output channels.
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
        for name in attributions_of(methods)
    }
    chosen = {name: RANKED_BY[name] for name in methods}
    return {n: one.rank(search, plain.get(one.attribution, {})) for n, one in chosen.items()}


def attributed(methods: Sequence[str], photographs: Photographs) -> int:
    """Count the photographs that `find_filters` attributes: what its progress runs to."""
    return len(attributions_of(methods)) * len(MASKS) * len(photographs.names)


def search_filters(
    setting: Setting,
    pair: Pair,
    photographs: Photographs,
    methods: Sequence[str],
    **options: Any,
) -> Rankings:
    """Do what `find_filters` does with the rule and seed of a setting, and draw its progress.

    Args:
        setting: of the experiment.
        pair: its pair.
        photographs: on which the functions show.
        methods: as in `find_filters`.
        options: `units`, `random_seeds` and `checkpoints` of `find_filters`.
    """
    with progress("finding filters", attributed(methods, photographs)) as advance:
        return find_filters(
            pair,
            photographs,
            methods,
            n_steps=setting.steps,
            method=setting.quadrature,
            seed=setting.seed,
            advance=advance,
            **options,
        )


def find_units(
    setting: Setting,
    pair: Pair,
    photographs: Photographs,
    pct: float,
    checkpoints: Path | None = None,
) -> dict[str, Selection]:
    """Find the filters of each function by FAIG with the ground truth (Eq. 7).

    Args:
        setting: of the experiment.
        pair: its pair.
        photographs: on which the functions show.
        pct: share of the filters, in percent.
        checkpoints: as in `find_filters`.
    """
    rankings = search_filters(setting, pair, photographs, ["faig"], checkpoints=checkpoints)
    return {mask: rankings["faig"][mask][0].top(fraction=pct / 100) for mask in MASKS}


def _counted(pairs: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for pair in pairs:
        yield pair
        advance(1)

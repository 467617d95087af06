"""The filters ranked by each method, for each function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from blind_sr.study import MASKS, Advance, Pair, Photographs, Rankings
from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    Scores,
    absolute_change,
    contrast,
    fisher_times_change,
    gradient_times_change,
    random_scores,
    random_within_layers,
    weight_magnitude,
)
from paramattr.attribution.captum import CAPTUM_METHODS, captum_scores
from paramattr.errors import ParamattrError
from paramattr.quadrature import get_rule

LABELS = {
    "faig": "FAIG",
    "faig-no-contrast": "FAIG, no contrast",
    "ig": "modified IG",
    "absolute-change": "|change|",
    "taylor-target": "Taylor, target",
    "taylor-middle": "Taylor, middle",
    "taylor-baseline": "Taylor, baseline",
    "fisher": "Fisher",
    "weight-magnitude": "|weight|",
    "random-within-layers": "random in layers",
    "random": "random",
    "layer-conductance": "conductance",
    "internal-influence": "internal influence",
    "layer-integrated-gradients": "layer IG",
    "layer-gradient-x-activation": "grad x activation",
    "layer-feature-ablation": "ablation",
}
"""Every method of the study and what people read."""

CAPTUM = tuple(CAPTUM_METHODS)
"""Captum's methods attribute to a layer's output channels: they have no single filters."""

METHODS = tuple(name for name in LABELS if name not in CAPTUM)
BASIC = ("faig", "faig-no-contrast", "absolute-change", "random")
UNITS = ("kernel", "output_channel")

_SLOW = ("layer-feature-ablation",)  # a run of the network for each channel: hours, unless named
_FREE = ("absolute-change", "weight-magnitude", "random")  # one ranking serves every function
_ON_FAIG = ("faig", "faig-no-contrast", "random-within-layers")


def named(methods: str, units: str = "kernel") -> list[str]:
    """Read what a person gave: names separated by commas, or 'all' that these units have.

    Raises:
        ParamattrError: for an unknown method or units, or one that has no such units.
    """
    if units not in UNITS:
        raise ParamattrError(f"units {units!r} are not known: expected {' or '.join(UNITS)}")
    if methods == "all":
        captum = CAPTUM if units == "output_channel" else ()
        return [*METHODS, *(method for method in captum if method not in _SLOW)]
    found = list(dict.fromkeys(method.strip() for method in methods.split(",")))
    check_methods(found, units)
    return found


def check_methods(methods: Sequence[str], units: str = "kernel") -> None:
    """Refuse methods that the study does not have, or not for these units.

    Raises:
        ParamattrError: naming the first such method.
    """
    for method in methods:
        if method not in LABELS:
            raise ParamattrError(
                f"method {method!r} is not known: expected some of {', '.join(LABELS)}"
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
            error or a kill goes on where it stopped.
        advance: called with the number of photographs attributed since it was last called; see
            `attributed`.

    Raises:
        ParamattrError: for an unknown method, before any work.
    """
    check_methods(methods, units)
    get_rule(method, n_steps)
    target, baseline = pair.target, pair.baseline

    def each(score: Callable[..., Scores], name: str) -> dict[str, list[Scores]]:
        found = {}
        for condition in MASKS:
            data = photographs.pairs(condition)
            if name == "ig":
                data = list(zip(photographs.low[condition], photographs.low["clean"], strict=True))
            file = Path(checkpoints) / f"{name}_{condition}.safetensors" if checkpoints else None
            scores = score(_counted(data, advance), reducer=units, checkpoint=file)
            found[condition] = [scores]
        return found

    def with_captum(name: str) -> dict[str, list[Scores]]:
        layers = [n for n, module in target.named_modules() if isinstance(module, nn.Conv2d)]
        return {
            condition: [
                captum_scores(
                    name,
                    target,
                    layers,
                    _counted(_with_clean(photographs, condition), advance),
                    n_steps=n_steps,
                    quadrature=method,
                )
            ]
            for condition in MASKS
        }

    rankings: Rankings = {}
    if any(wanted in _ON_FAIG for wanted in methods):
        faig = FAIG(target, baseline, dtype=pair.mixed)
        plain = each(partial(faig.score, n_steps=n_steps, method=method), "faig")
        [blur], [noise] = plain["blur"], plain["noise"]
        found = {"blur": contrast(blur, noise), "noise": contrast(noise, blur)}
        rankings["faig"] = {function: [scores] for function, scores in found.items()}
        rankings["faig-no-contrast"] = plain
        rankings["random-within-layers"] = {
            function: [random_within_layers(scores, seed=seed)]
            for function, scores in found.items()
        }
    if "ig" in methods:
        ig = InputPathIntegratedGradients(target)
        rankings["ig"] = each(partial(ig.score, n_steps=n_steps, method=method), "ig")
    for place in ("target", "middle", "baseline"):
        if f"taylor-{place}" in methods:
            rankings[f"taylor-{place}"] = each(
                partial(gradient_times_change, target, baseline, at=place),
                f"taylor-{place}",
            )
    if "fisher" in methods:
        rankings["fisher"] = each(partial(fisher_times_change, target, baseline), "fisher")
    alike = {
        "absolute-change": [absolute_change(target, baseline, reducer=units)],
        "weight-magnitude": [weight_magnitude(target, reducer=units)],
        "random": [
            random_scores(target, reducer=units, seed=seed + k) for k in range(random_seeds)
        ],
    }
    rankings |= {name: dict.fromkeys(MASKS, scores) for name, scores in alike.items()}
    rankings |= {name: with_captum(name) for name in methods if name in CAPTUM}
    return {wanted: rankings[wanted] for wanted in methods}


def attributed(methods: Sequence[str], photographs: Photographs) -> int:
    """Count the photographs that `find_filters` attributes: what its progress runs to."""
    on_faig = any(method in _ON_FAIG for method in methods)
    others = [method for method in methods if method not in (*_ON_FAIG, *_FREE)]
    return (on_faig + len(others)) * len(MASKS) * len(photographs.names)


def _with_clean(photographs: Photographs, condition: str) -> list[Any]:
    starts = zip(photographs.low[condition], photographs.low["clean"], strict=True)
    return list(zip(starts, photographs.high, strict=True))


def _counted(pairs: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for pair in pairs:
        yield pair
        advance(1)

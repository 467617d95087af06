"""How the filters respond to a severity: a curve and a regression per filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blind_sr.data.photographs import Photographs, with_conditions
from blind_sr.models.pairs import Pair
from blind_sr.rankings.conditions import score_conditions
from blind_sr.setting import Setting
from blind_sr.severity.inputs import RANGES
from paramattr import Response, Selection


def respond(
    setting: Setting, pair: Pair, photographs: Photographs, kind: str, levels: int
) -> Response:
    """Score the filters on the same photographs at evenly spaced severities, in one pass."""
    own = RANGES[kind]
    named = {f"{kind} {severity:g}": severity for severity in own.levels(levels)}
    degraded = with_conditions(
        photographs, {n: own.degradation(s) for n, s in named.items()}, seed=setting.seed
    )
    scores = score_conditions(setting, pair, degraded, list(named))["kernel"]
    return Response({severity: scores[name] for name, severity in named.items()})


def summary(response: Response, found: Mapping[str, Selection]) -> dict[str, Any]:
    """Say how the filters of each function respond, and how all of them do.

    Returns:
        `severities`; and of the filters of each function, and of `"all"`: `curve`, their mean score
        at each severity; `slope`, the mean slope; `rising` and `falling`, the share of them whose
        slope differs from zero over photographs, false discoveries held below 5%; `explained`, the
        mean share of the variance over severities that a line explains.
    """
    slope, explained = response.slope, response.explained
    significant = slope.significant().chosen if slope.samples > 1 else None
    everything = {"all": slope.index}
    chosen = {name: own.chosen for name, own in found.items()}
    chosen |= dict.fromkeys(everything, slope.values == slope.values)
    rows: dict[str, Any] = {"severities": response.severities.tolist()}
    for name, own in chosen.items():
        moves = None if significant is None else significant & own
        count = int(own.sum())
        rows[name] = {
            "curve": response.values[:, own].mean(1).tolist(),
            "slope": float(slope.values[own].mean()),
            "rising": None if moves is None else int((moves & (slope.values > 0)).sum()) / count,
            "falling": None if moves is None else int((moves & (slope.values < 0)).sum()) / count,
            "explained": float(explained[own].nanmean()),
        }
    return rows


def filter_rows(response: Response, found: Selection) -> list[dict[str, Any]]:
    """Give one row per filter of a function: its regression with the 95% interval."""
    slope, middle = response.slope, response.middle.values
    intervals, explained = slope.intervals(), response.explained
    return [
        {
            "filter": f"{unit.name}{list(unit.position)}",
            "middle": float(middle[number]),
            "slope": float(slope.values[number]),
            "low": float(intervals[number, 0]),
            "high": float(intervals[number, 1]),
            "explained": float(explained[number]),
        }
        for number, unit in zip(found.chosen.nonzero().flatten().tolist(), found, strict=True)
    ]

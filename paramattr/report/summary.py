"""What was found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from paramattr.faithfulness.comparison import CONTROL, Comparison
from paramattr.report.wording import Wording
from paramattr.scoring.profile import PathProfile
from paramattr.units.scores import Scores


def of_scores(rankings: Mapping[str, Scores], fraction: float, wording: Wording) -> list[str]:
    """Say how much of the scores the first units hold, and where they lie."""
    sentences = []
    for name, scores in rankings.items():
        beginning = f"{name}: " if name else ""
        selection = scores.top(fraction=fraction, warn=False)
        positive = float(scores.values.clamp(min=0).sum())
        own = float(scores.values[selection.chosen].clamp(min=0).sum())
        layers = scores.by_layer()
        first = max(layers, key=lambda layer: layers[layer])
        sentences.append(
            f"{beginning}{len(scores):,} {wording.units} in {len(layers)} layers. The first "
            f"{100 * fraction:g}% of them ({len(selection):,}) hold "
            f"{_percent(own, positive)} of what scores above zero; most of it lies in {first}."
        )
        if 0.0005 < scores.unassigned <= 1:
            sentences.append(
                f"{beginning}{100 * scores.unassigned:.1f}% of the attributed magnitude lies in "
                f"entries of no {wording.units}."
            )
        if scores.samples:
            sentences.append(f"{beginning}the scores are means over {scores.samples:,} samples.")
    return sentences


def of_comparison(comparison: Comparison, fraction: float, wording: Wording) -> list[str]:
    """Say what exchanging the first method's units does, beside random units and other measures."""
    fraction = nearest(comparison.fractions, fraction)
    method = next(iter(comparison.rankings))
    functions = list(dict.fromkeys(function for _, function, _ in comparison.curves))
    samples = next(iter(comparison.curves.values())).values.shape[1]
    sentences = [
        f"{len(comparison.rankings)} rankings are compared on {samples} samples: "
        f"{'; '.join(map(wording.label, comparison.rankings))}."
    ]
    for function in functions:
        own = comparison.curves[method, function, function].at(fraction, comparison.bootstrap)
        chance = comparison.curves[CONTROL, function, function].at(fraction, comparison.bootstrap)
        said = (
            f"{wording.label(function)}: with the first {100 * fraction:g}% of the "
            f"{wording.units} by {wording.label(method)} {wording.verb}, the {wording.measure} on "
            f"{wording.measures(function)} is {own.value:.3g} ({own.low:.3g} to {own.high:.3g})"
        )
        if method != CONTROL:
            said += f"; with as many random {wording.units} it is {chance.value:.3g}"
        for other in functions:
            if other != function:
                there = comparison.curves[method, function, other].at(fraction)
                said += f"; on {wording.measures(other)} it is {there.value:.3g}"
        sentences.append(said + ".")
    sentences += _best(comparison, functions, wording)
    if comparison.truth is None:
        sentences.append("Whether an edit is damage is not known: no truth was given.")
    else:
        judged = comparison.damage([fraction])

        def listed(rows: list[dict[str, Any]]) -> str:
            named = (f"{wording.label(r['method'])} ({wording.label(r['function'])})" for r in rows)
            return ", ".join(named) or "none"

        damaged = listed([row for row in judged if row["damage"]])
        sentences.append(
            f"Damage at {100 * fraction:g}%, by the objective against the truth: {damaged}."
        )
        if any(row["selective"] is False for row in judged):
            costly = listed([row for row in judged if row["selective"] is False])
            sentences.append(f"Not selective, costing another condition more: {costly}.")
    return sentences


def of_profiles(profiles: Mapping[str, PathProfile]) -> list[str]:
    """Say how high the barriers are, and what that means."""
    high = [name or "the objective" for name, p in profiles.items() if p.barrier > 1]
    barriers = ", ".join(f"{name} {p.barrier:.2g}".strip() for name, p in profiles.items())
    if high:
        end = (
            f"Above 1 for {', '.join(high)}, where the path passes through worse models: read the "
            "scores with care."
        )
    else:
        end = "None is above 1."
    return [f"Barrier along the path: {barriers}. {end}"]


def nearest(fractions: tuple[float, ...], wanted: float) -> float:
    """Find the measured fraction above zero that is nearest to the one wanted.

    >>> nearest((0.0, 0.01, 0.05, 1.0), 0.02)
    0.01
    """
    above = [fraction for fraction in fractions if fraction > 0] or list(fractions)
    return min(above, key=lambda fraction: abs(fraction - wanted))


def _best(comparison: Comparison, functions: list[str], wording: Wording) -> list[str]:
    fractions = comparison.fractions
    if fractions[0] != 0 or fractions[-1] != 1 or len(fractions) < 3:
        return []
    areas = [row for row in comparison.areas() if row["method"] != CONTROL]
    sentences = []
    for function in functions:
        own = sorted(
            (row for row in areas if row["function"] == function), key=lambda row: -row["value"]
        )
        if len(own) > 1:
            order = "; ".join(f"{wording.label(r['method'])} {r['value']:.2f}" for r in own[:4])
            more = f"; then {len(own) - 4} more" if len(own) > 4 else ""
            sentences.append(f"{wording.label(function)}, area under the curve: {order}{more}.")
    return sentences


def _percent(part: float, whole: float) -> str:
    return "an unknown share" if not whole or math.isnan(whole) else f"{100 * part / whole:.0f}%"

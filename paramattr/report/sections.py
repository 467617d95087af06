"""The sections of a page: numbers in words, then tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paramattr.faithfulness.comparison import CONTROL, Comparison
from paramattr.report.blocks import (
    Block,
    Cell,
    Change,
    Changes,
    Modulation,
    Spread,
    Table,
    Words,
)
from paramattr.report.page import Section
from paramattr.report.panels import curve_panels, network_of, profile_panels
from paramattr.scoring.profile import PathProfile
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection
from paramattr.units.showing import name_of


@dataclass(frozen=True)
class Wording:
    """What methods, functions, units and measures are called.

    Attributes:
        labels: of methods and functions; their names by default.
        measured: what functions are called where they are measured; as `labels` by default.
        verb: what happens to the units, such as `"masked"`.
        measure: what is measured as they go.
        units: what units are called.
        objective: what is measured along the path.
        ends: what the two models are called, from the start of the path to its end.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    verb: str = "exchanged"
    measure: str = "measure"
    units: str = "units"
    objective: str = "objective"
    ends: tuple[str, str] = ("target", "baseline")

    def label(self, name: str) -> str:
        """Say what a method or function is called."""
        return self.labels.get(name, name)

    def measures(self, name: str) -> str:
        """Say what a function is called where it is measured."""
        return self.measured.get(name, self.label(name))


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


LISTED = 50
"""Units that a table lists of each ranking."""


def summary_section(sentences: Sequence[str]) -> Section:
    """Say what was found, in words."""
    return Section("Summary", [Words([one[:1].upper() + one[1:] for one in sentences])])


def profile_section(profiles: Mapping[str, PathProfile], wording: Wording) -> Section:
    """Show the objective along the path."""
    first = next(iter(profiles.values()))
    start, end = wording.ends
    rows = [[name, *profile.values.tolist(), profile.barrier] for name, profile in profiles.items()]
    head = ["condition", *(f"{alpha:.3g}" for alpha in first.alphas.tolist()), "barrier"]
    same = all(p.alphas.equal(first.alphas) for p in profiles.values())
    table = Table(
        f"{wording.objective.capitalize()} along the path",
        head,
        rows,
        f"0 is the {start}, 1 the {end}. Barrier: how far it rises above the straight line "
        "between the ends, over their difference. Above 1, mistrust the scores.",
    )
    panels = profile_panels(profiles, measure=wording.objective, ends=wording.ends)
    lead = f"The mean over {first.samples} samples, from the {start} to the {end}."
    return Section("Path profile", [panels, table] if same else [panels], lead)


def curve_section(comparison: Comparison, wording: Wording) -> Section:
    """Show the curves of a comparison, with their numbers, areas and leads."""
    panels = curve_panels(
        comparison,
        labels=wording.labels,
        measured_labels=wording.measured,
        verb=wording.verb,
        measure=wording.measure,
        units=wording.units,
    )
    judged = comparison.truth is not None
    rows: list[list[Cell]] = [
        [
            wording.label(row["method"]),
            wording.label(row["function"]),
            wording.measures(row["measured"]),
            100 * row["fraction"],
            Spread(row["value"], row["low"], row["high"]),
            *([row["reason"]] if judged else []),
        ]
        for row in comparison.rows()
    ]
    head = ["method", f"{wording.units} of", "measured on", "%", wording.measure]
    table = Table("Curves", [*head, *(["what is wrong"] if judged else [])], rows)
    blocks: list[Block] = [panels, *_areas(comparison, wording), table]
    lead = (
        f"{wording.measure.capitalize()}, as the {wording.units} that a method ranks first are "
        f"{wording.verb}, from none to all."
    )
    return Section("Masking curves" if wording.verb == "masked" else "Curves", blocks, lead)


def _areas(comparison: Comparison, wording: Wording) -> list[Table]:
    fractions = comparison.fractions
    if fractions[0] != 0 or fractions[-1] != 1 or len(fractions) < 3:
        return []
    rows: list[list[Cell]] = [
        [
            wording.label(row["method"]),
            wording.label(row["function"]),
            Spread(row["value"], row["low"], row["high"]),
        ]
        for row in sorted(comparison.areas(), key=lambda row: -row["value"])
        if row["method"] != CONTROL
    ]
    note = "0 is random, 1 is all that the units can do at once."
    return [Table("Area under the curve", ["method", "function", "area"], rows, note)]


def network_section(selections: Mapping[str, Selection], wording: Wording) -> Section:
    """Draw the layers with the units that were found, and count them."""
    network = network_of(selections, units=wording.units)
    counts = {name: selection.by_layer() for name, selection in selections.items()}
    layers = {
        path: len(own) for path, own in next(iter(selections.values())).index.layers().items()
    }
    rows: list[list[Cell]] = [
        [path, size, *(own[path] for own in counts.values())] for path, size in layers.items()
    ]
    table = Table("Found by layer", ["layer", wording.units, *counts], rows)
    return Section(f"Where the {wording.units} lie", [network, table])


def units_section(rankings: Mapping[str, Scores], wording: Wording) -> Section:
    """List the units of the highest scores with their intervals."""
    blocks: list[Block] = []
    for name, scores in rankings.items():
        caption = f"Top {wording.units}" + (f": {name}" if name else "")
        table = unit_table(scores, caption)
        blocks.append(table if table.rows else Words([f"{caption}. None scores above zero."]))
    lead = (
        "Intervals: 95% over samples, by Student's t, of each unit alone. Units that were chosen "
        "since they score high are scored too high on average."
    )
    known = any(not bool(scores.standard_error.isnan().all()) for scores in rankings.values())
    return Section(f"Top {wording.units}", blocks, lead if known else "No interval is known.")


def unit_table(scores: Scores, caption: str, *, count: int = LISTED) -> Table:
    """List the first units of a ranking whose scores are above zero."""
    reach = scores.intervals()
    above = int((scores.values > 0).sum())
    signs = not bool(scores.signed.isnan().all())
    rows: list[list[Cell]] = []
    for place, number in enumerate(scores.rank()[: min(count, above)].tolist(), 1):
        low, high = reach[number].tolist()
        spread = Spread(float(scores.values[number]), low, high)
        signed = [float(scores.signed[number])] if signs else []
        rows.append([name_of(scores.index[number]), place, spread, *signed])
    note = f"{len(rows)} of {len(scores):,}; {above:,} score above zero."
    if signs:
        note += " Signed: the mean of A, above zero where the change lowers the objective."
    return Table(caption, ["unit", "place", "score", *(["signed"] if signs else [])], rows, note)


def layer_table(shares: Mapping[str, Mapping[str, float]], caption: str, note: str) -> Table:
    """List numbers by layer, a column each, in the model's order."""
    layers = list(next(iter(shares.values())))
    rows: list[list[Cell]] = [
        [layer, *(own.get(layer, 0.0) for own in shares.values())] for layer in layers
    ]
    return Table(caption, ["layer", *shares], rows, note)


def change_sections(
    changes: Sequence[Change], modulations: Sequence[Modulation], wording: Wording
) -> list[Section]:
    """Show samples before and after, and sliders over the strength; no section for nothing."""
    sections, (start, end) = [], wording.ends
    if changes:
        lead = (
            "Left of the line is the model as it was, right of it the edited one. Move the slider."
        )
        sections.append(Section("Before and after", [Changes(changes)], lead))
    if modulations:
        lead = (
            f"The {wording.units} found become strength × {start} + (1 − strength) × {end}. At 0 "
            f"they are the {end}'s, at 1 the {start}'s, and beyond 1 the change is exaggerated."
        )
        sections.append(Section("Modulation", list(modulations), lead))
    return sections


def note_sections(notes: Sequence[str]) -> list[Section]:
    """Say what was left out, cut or guessed; no section for nothing."""
    return [Section("Notes", [Words(notes)])] if notes else []

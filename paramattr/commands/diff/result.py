"""The findings of a comparison: its rows, what they say, its figure and its page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from paramattr.commands.diff.measuring import (
    LEAST_GAIN,
    Distance,
    Loss,
    Nodes,
    Residuals,
    Worth,
    is_small,
    mean_of_known,
    percent,
    told,
)
from paramattr.commands.diff.names import ALL, ENDS, counted
from paramattr.errors import printable
from paramattr.figures import COLOURS, GREY, empty_figure
from paramattr.report import sections
from paramattr.report.blocks import Change, Modulation, Spread, Table
from paramattr.report.page import Page, Section
from paramattr.report.panels import loss_panels
from paramattr.report.sections import Wording
from paramattr.scoring.estimate import Estimate
from paramattr.scoring.profile import PathProfile
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection

LAYER = "layer"
FOUND = 0.1
"""Share of the gain that a list of units must hold to count as found, and twice what random units
do."""
DRAWN = 24
LETTERS = 40
"""Of a condition's name: a longer one leaves no room to draw in."""


@dataclass(frozen=True)
class Plan:
    """The work that a run would do.

    Attributes:
        distance: distance between the models.
        counts: number of samples, by condition.
        units: number of units of each kind.
        masked: number that is masked, of each kind but layers where there is another.
        objective: its name on the command line.
        gradients: number of gradients; the fewest, where the nodes are yet to be found.
        most_gradients: largest number of gradients.
        passes: number of forward passes over all samples.
        notes: sentences on what is not attributed.
        memory: estimate of what the gradients take, where it was asked for.
    """

    distance: Distance
    counts: dict[str, int]
    units: dict[str, int]
    masked: dict[str, int]
    objective: str
    gradients: int
    most_gradients: int
    passes: int
    notes: tuple[str, ...]
    memory: Estimate | None = None


@dataclass(frozen=True)
class Result:
    """The findings of a comparison.

    Attributes:
        plan: the work that was done.
        nodes: nodes that were taken on the path, and why.
        target: worth of the tuned model, by condition.
        baseline: worth of the base, by condition.
        gains: improvement of the objective by the fine-tuning, by condition.
        profile: objective along the path, over all samples.
        scores: kind of unit, then condition, to scores; the layers' are always there.
        rankings: scores that units are ranked by, keyed likewise. Where there are several
            conditions, each is contrasted with the others, and `"all"` is the mean over all
            samples.
        selections: top share of each ranking, of scores above zero alone.
        change: layer's share of the summed magnitude of the change.
        losses: losses of each kind, condition sought and condition measured.
        notes: sentences on what is not attributed, and what was warned of.
    """

    plan: Plan
    nodes: Nodes
    target: dict[str, Worth]
    baseline: dict[str, Worth]
    gains: dict[str, float]
    profile: PathProfile
    scores: dict[str, dict[str, Scores]]
    rankings: dict[str, dict[str, Scores]]
    selections: dict[str, dict[str, Selection]]
    change: dict[str, float]
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]

    @property
    def residual(self) -> Residuals:
        """Share of the objective's change that the attributions miss, by condition."""
        return {name: scores.residual for name, scores in self.scores[LAYER].items()}

    def page(self) -> Page:
        """Give the report, which `paramattr.report.write_report` writes."""
        return page_of(self)


@dataclass(frozen=True)
class Examples:
    """Single texts and strengths that a report shows.

    Attributes:
        changes: texts before and after.
        modulations: strengths of the units of each condition.
        notes: sentences on what they show, and on what is left out.
    """

    changes: tuple[Change, ...] = ()
    modulations: tuple[Modulation, ...] = ()
    notes: tuple[str, ...] = ()


def layer_rows(result: Result) -> list[dict[str, Any]]:
    """Give each layer's share of the change and of each condition's attributions, largest first."""
    shares: dict[str, dict[str, float]] = {}
    for name, scores in result.scores[LAYER].items():
        own = scores.by_layer()
        total = sum(own.values())
        shares[name] = {layer: value / total if total else 0.0 for layer, value in own.items()}
    rows = [
        {
            "layer": layer,
            "change": result.change.get(layer, 0.0),
            "attributed": {name: own[layer] for name, own in shares.items()},
        }
        for layer in next(iter(shares.values()))
    ]
    return sorted(rows, key=lambda row: -fmean(row["attributed"].values()))


def masked_rows(result: Result) -> list[dict[str, Any]]:
    """Give what is lost: a row per kind of unit and condition sought, beside random units."""
    rows = []
    for units, own in result.selections.items():
        for sought in own:
            found = [x for x in result.losses if (x.units, x.sought) == (units, sought)]
            if not found:
                continue
            at_home = [x for x in found if x.measured == sought] or found
            away = [x for x in found if x not in at_home]
            change, chance = _over(at_home, result, "change"), _over(at_home, result, "random")
            home = [x.measured for x in at_home]
            rows.append(
                {
                    "units": units,
                    "sought": sought,
                    "masked": found[0].masked,
                    "lost": change,
                    "lost_share": lost_share(change, home, result),
                    "others_lost": mean_of_known(x.change for x in away),
                    "selectivity": _ratio(change, [x.change for x in away]),
                    "random_lost": chance,
                    "random_lost_share": lost_share(chance, home, result),
                    "random_others_lost": mean_of_known(x.random for x in away),
                    "random_selectivity": _ratio(chance, [x.random for x in away]),
                    "accuracy": _over(at_home, result, "accuracy"),
                    "random_accuracy": _over(at_home, result, "random_accuracy"),
                    "by_condition": {x.measured: dict(vars(x)) for x in found},
                }
            )
    return rows


def lost_share(change: float | None, conditions: Sequence[str], result: Result) -> float | None:
    """Say what share of what the fine-tuning gained is lost, over all samples of some conditions.

    None where it gained nothing to speak of.
    """
    counts = {name: result.plan.counts[name] for name in conditions}
    gained = sum(n * result.gains[name] for name, n in counts.items())
    tuned, base = (
        sum(n * worth[name].objective for name, n in counts.items())
        for worth in (result.target, result.baseline)
    )
    if change is None or gained <= 0 or is_small(tuned, base):
        return None
    return change * sum(counts.values()) / (base - tuned)


def nothing_found(result: Result) -> list[str]:
    """Say of which conditions no list of units carries what was gained, and where nothing was."""
    rows = masked_rows(result)
    said: list[str] = []
    without: list[str] = []
    for name in result.plan.counts:
        if lost_share(0.0, [name], result) is None:
            tuned, base = (worth[name].objective for worth in (result.target, result.baseline))
            without += [name] if is_small(tuned, base) else []
            continue
        own = [row for row in rows if row["sought"] == name]
        if not own or any(map(_is_found, own)):
            continue
        best = max(own, key=lambda row: row["lost_share"])
        lost = percent(max(0.0, best["lost_share"]))
        lost += " of what the fine-tuning gained is lost" if not said else ""
        chance = percent(max(0.0, best["random_lost_share"] or 0.0))
        said.append(f"{lost}{_on(name, result)} (random ones: {chance})")
    found = []
    if said:
        found = [f"No short list was found: with the top units masked, {', '.join(said)}."]
    if without:
        names = ", ".join(without) if len(result.plan.counts) > 1 else "these samples"
        found.append(
            f"On {names} the fine-tuning gained less than {percent(LEAST_GAIN)} of the objective: "
            "there is next to nothing to find."
        )
    return found


def _is_found(row: dict[str, Any]) -> bool:
    share, chance = row["lost_share"], row["random_lost_share"]
    return bool(share >= FOUND and share >= 2 * (chance or 0.0))


def _over(rows: list[Loss], result: Result, key: str) -> float | None:
    """Take the mean over all samples of some conditions."""
    counts = result.plan.counts
    found = [(counts[row.measured], getattr(row, key)) for row in rows]
    if any(value is None for _, value in found):
        return None
    return float(sum(n * value for n, value in found) / sum(n for n, _ in found))


def unassigned(result: Result) -> list[str]:
    """Say of each condition what share of the attributed magnitude lies in no unit."""
    said = []
    for units, own in result.scores.items():
        shares = {name: scores.unassigned for name, scores in own.items()}
        if units in result.selections and max(shares.values()) > 0.0005:
            each = ", ".join(
                f"{100 * share:.1f}%" + (f" on {name}" if len(own) > 1 else "")
                for name, share in shares.items()
            )
            said.append(f"Of the attributed magnitude, {each} lies in no {units}.")
    return said


def _ratio(own: float | None, others: Sequence[float | None]) -> float | None:
    mean = mean_of_known(others)
    return None if own is None or mean is None or mean <= 0 or own <= 0 else own / mean


def _on(condition: str, result: Result) -> str:
    return f" on {condition}" if len(result.plan.counts) > 1 else ""


def page_of(
    result: Result,
    examples: Examples | None = None,
    *,
    base: Path | None = None,
    tuned: Path | None = None,
) -> Page:
    """Lay a comparison out.

    Args:
        result: the findings.
        examples: examples that `illustrate` gave; without them nothing is shown of single texts
            and strengths.
        base: name of the base.
        tuned: name of the tuned model.
    """
    shown = examples or Examples()
    title = "What did fine-tuning change?"
    subtitle = f"{tuned} against {base}" if base is not None and tuned is not None else ""
    words = Wording(units="units", verb="masked", ends=ENDS)
    notes = list(dict.fromkeys([*result.notes, *unassigned(result), *shown.notes]))
    profiles = {"all samples": result.profile}
    return Page(
        title,
        [
            sections.summary_section([*_summary(result), *sections.of_profiles(profiles)]),
            _objective_section(result),
            sections.profile_section(profiles, words),
            _layer_section(result),
            *_kind_sections(result),
            *_masked_section(result),
            *sections.change_sections(shown.changes, shown.modulations, words),
            *sections.note_sections(notes),
        ],
        subtitle,
    )


def _summary(result: Result) -> list[str]:
    apart = result.plan.distance
    samples = ", ".join(f"{count} of {name}" for name, count in result.plan.counts.items())
    sentences = [
        f"{apart.changed:,} of {apart.parameters:,} parameters differ. The change is "
        f"{100 * apart.relative:.3g}% of the base's length.",
        f"Samples: {samples}.",
    ]
    for name, worth in result.target.items():
        other = result.baseline[name]
        moves = "rises" if worth.objective > other.objective else "falls"
        said = (
            f"{name}: from the base to the tuned model the objective {moves} from "
            f"{other.objective:.3g} to {worth.objective:.3g}"
        )
        if worth.accuracy is not None and other.accuracy is not None:
            said += f"; {100 * worth.accuracy:.0f}% are right, {100 * other.accuracy:.0f}% before"
        sentences.append(said + ".")
    sentences += [*told(result.nodes, result.residual), _largest(result)]
    for row in masked_rows(result):
        said = (
            f"With the top {counted(row['masked'], row['units'])}"
            f"{'' if row['sought'] == ALL else ' of ' + row['sought']} masked, the "
            f"objective rises by {row['lost']:.3g}"
        )
        if row["lost_share"] is not None:
            said += f", {percent(row['lost_share'])} of what the fine-tuning gained"
        if row["random_lost"] is not None:
            said += f"; with as many random ones by {row['random_lost']:.3g}"
        if row["others_lost"] is not None:
            said += f"; on the other conditions by {row['others_lost']:.3g}"
        sentences.append(said + ".")
    return [*sentences, *nothing_found(result)]


def _largest(result: Result) -> str:
    """Name the layer with the largest share of each condition's attributions."""
    rows, said = layer_rows(result), []
    for name in result.plan.counts:
        first = max(rows, key=lambda row: row["attributed"][name])
        on = f" on {name}" if len(result.plan.counts) > 1 else ""
        said.append(f"{first['layer']}{on} ({100 * first['attributed'][name]:.0f}%)")
    return f"The layer with the largest share of the attributions is {', '.join(said)}."


def _objective_section(result: Result) -> Section:
    rows: list[list[Any]] = []
    right = any(worth.accuracy is not None for worth in result.target.values())
    for name, worth in result.target.items():
        other = result.baseline[name]
        row = [name, result.plan.counts[name], worth.objective, other.objective]
        rows.append([*row, *([worth.accuracy, other.accuracy] if right else [])])
    head = ["condition", "samples", "tuned", "base"]
    head += ["tuned right", "base right"] if right else []
    return Section("Objective", [Table("Mean objective", head, rows)])


def _layer_section(result: Result) -> Section:
    rows = layer_rows(result)
    names = list(rows[0]["attributed"])
    cells = [
        [
            row["layer"],
            Spread(100 * row["change"]),
            *(Spread(100 * row["attributed"][name]) for name in names),
        ]
        for row in rows
    ]
    head = ["layer", "change, %", *(f"{name}, %" for name in names)]
    note = "Change: of the summed magnitude of the parameters' change. The others: of attributions."
    return Section("Shares by layer", [Table("Change and attributions", head, cells, note)])


def _kind_sections(result: Result) -> list[Section]:
    found = []
    for kind in (name for name in result.selections if name != LAYER):
        words = Wording(units=counted(2, kind)[2:])
        chosen = {name: own for name, own in result.selections[kind].items() if len(own)}
        if chosen:
            found.append(sections.network_section(chosen, words))
        found.append(sections.units_section(result.rankings[kind], words))
    return found


def _masked_section(result: Result) -> list[Section]:
    rows = masked_rows(result)
    if not rows:
        return []
    several = any(row["others_lost"] is not None for row in rows)
    bars = {"condition sought": [row["lost"] for row in rows]}
    if several:
        bars["other conditions"] = [row["others_lost"] for row in rows]
    bars["random units"] = [row["random_lost"] for row in rows]
    names = [f"{row['units']}: {row['sought']}" for row in rows]
    head = ["units", "sought", "masked", "lost", "random lost"]
    keys = ["units", "sought", "masked", "lost", "random_lost"]
    if several:
        head += ["others lost", "ratio", "random ratio"]
        keys += ["others_lost", "selectivity", "random_selectivity"]
    table = Table(
        "Lost with the top units masked",
        head,
        [[row[key] for key in keys] for row in rows],
        "Lost: the mean objective with the base's values in these units, minus the tuned model's. "
        "Random: as many units of the same layers. Ratio: lost by the condition sought over the "
        "others' mean.",
    )
    panels = loss_panels(names, bars, measure="objective lost")
    return [Section("What is lost without them", [panels, table])]


def draw(layers: list[dict[str, Any]], masked: list[dict[str, Any]]) -> bytes:
    """Draw each layer's share of the attributions and of the change, and the losses; as PNG.

    Args:
        layers: rows of `layer_rows`.
        masked: rows of `masked_rows`.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    shown = layers[:DRAWN]
    figure = empty_figure((11, max(4.0, 0.28 * len(shown) + 1.5)))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    names = list(shown[0]["attributed"])
    height = 0.8 / (len(names) + 1)
    for number, name in enumerate(names):
        places = [place + number * height for place in range(len(shown))]
        shares = [100 * row["attributed"][name] for row in shown]
        left.barh(places, shares, height, color=COLOURS[number % len(COLOURS)], label=_cut(name))
    places = [place + len(names) * height for place in range(len(shown))]
    left.barh(places, [100 * row["change"] for row in shown], height, color=GREY, label="|change|")
    left.set_yticks(range(len(shown)), [printable(row["layer"]) for row in shown], fontsize=7)
    left.invert_yaxis()
    left.set_xlabel("share, %")
    left.set_title("by layer", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower right")  # the largest come first, above
    bars = [("sought", "lost", COLOURS[0]), ("random", "random_lost", GREY)]
    if any(row["others_lost"] is not None for row in masked):
        bars.insert(1, ("others", "others_lost", COLOURS[1]))
    height = 0.8 / len(bars)
    for number, (label, key, colour) in enumerate(bars):
        places = [place + number * height for place in range(len(masked))]
        right.barh(places, [row[key] or 0.0 for row in masked], height, color=colour, label=label)
    right.set_yticks(
        range(len(masked)), [f"{row['units']}\n{_cut(row['sought'])}" for row in masked], fontsize=7
    )
    right.invert_yaxis()
    right.set_xlabel("objective lost")
    right.locator_params(axis="x", nbins=4)
    right.ticklabel_format(axis="x", scilimits=(-2, 4))
    right.set_title("with the top units masked", fontsize=9)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=120)
    return written.getvalue()


def _cut(name: str) -> str:
    plain = printable(name)
    return plain if len(plain) <= LETTERS else f"{plain[:LETTERS]}..."

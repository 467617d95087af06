"""The report of a comparison of two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paramattr.diff.columns import counted
from paramattr.diff.config import Config
from paramattr.diff.examples import Examples, illustrate
from paramattr.diff.experiment import LAYER, Result
from paramattr.diff.material import Material
from paramattr.diff.names import ALL
from paramattr.diff.nodes import percent, told
from paramattr.diff.report import layer_rows, masked_rows, nothing_found, unassigned
from paramattr.diff.wording import ENDS
from paramattr.errors import ParamattrError
from paramattr.report import sections, summary
from paramattr.report.blocks import Spread, Table
from paramattr.report.page import Page, Section, check_installed
from paramattr.report.panels import loss_panels
from paramattr.report.wording import Wording

FILE = "report.html"


def save_page(config: Config, material: Material, result: Result) -> list[str]:
    """Write the report into the folder of results.

    Returns:
        What to tell the caller: how to get the report where it cannot be written.
    """
    if config.out is None:
        return []
    try:
        check_installed()
    except ParamattrError as error:
        return [f"{config.out / FILE} was not written: {error}; then call the same command again"]
    page = page_of(result, illustrate(material, result), base=config.base, tuned=config.tuned)
    page.save(config.out / FILE)
    return []


def page_of(
    result: Result,
    examples: Examples | None = None,
    *,
    base: Path | None = None,
    tuned: Path | None = None,
) -> Page:
    """Lay a comparison out.

    Args:
        result: what was found.
        examples: of `illustrate`; without them nothing is shown of single texts and strengths.
        base: what the base is called.
        tuned: what the tuned model is called.
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
            sections.summary_section([*_summary(result), *summary.of_profiles(profiles)]),
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

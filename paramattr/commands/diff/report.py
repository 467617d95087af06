"""A comparison's rows: as tables for a terminal, as JSON, as files in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING, Any

from paramattr.commands.diff.config import Config
from paramattr.commands.diff.measuring import told
from paramattr.commands.diff.names import ALL, counted, file_names
from paramattr.commands.diff.result import (
    LAYER,
    Plan,
    Result,
    draw,
    layer_rows,
    lost_share,
    masked_rows,
    nothing_found,
    unassigned,
)
from paramattr.errors import ParamattrError, printable
from paramattr.files.writing import write_whole

if TYPE_CHECKING:
    from rich.console import Console

TOP = 5
"""Units that are listed of each kind and condition; JSON lists more."""
LISTED = 100
LAYERS = 12
CONDITIONS = 3
"""More than these get no columns of their own."""


def as_json(config: Config, result: Result) -> dict[str, Any]:
    """Give all that was found in kinds that JSON knows."""
    profile = result.profile
    nodes = result.nodes
    return {
        **plan_rows(config, result.plan),
        "settings": {
            **config.shown(),
            "objective": result.plan.objective,
            "steps": nodes.taken,
        },
        "nodes": {
            "taken": nodes.taken,
            "residual": _finite_each(result.residual),
            "looks": [
                {"nodes": look.nodes, "residual": _finite_each(look.residual)}
                for look in nodes.looks
            ],
        },
        "notes": list(result.notes),
        "objective": {
            name: {
                "tuned": worth.objective,
                "base": result.baseline[name].objective,
                "gain": result.gains[name],
                "tuned_accuracy": worth.accuracy,
                "base_accuracy": result.baseline[name].accuracy,
            }
            for name, worth in result.target.items()
        },
        "profile": {
            "alphas": profile.alphas.tolist(),
            "values": profile.values.tolist(),
            "barrier": profile.barrier if math.isfinite(profile.barrier) else None,
        },
        "unassigned": {
            units: {name: scores.unassigned for name, scores in own.items()}
            for units, own in result.scores.items()
        },
        "layers": layer_rows(result),
        "top": top_rows(result, LISTED),
        "masked": masked_rows(result),
    }


def plan_rows(config: Config, planned: Plan) -> dict[str, Any]:
    """Give a plan in kinds that JSON knows."""
    return {
        "settings": {**config.shown(), "objective": planned.objective},
        "distance": dict(vars(planned.distance)),
        "samples": planned.counts,
        "units": planned.units,
        "masked_units": planned.masked,
        "gradients": planned.gradients,
        "most_gradients": planned.most_gradients,
        "passes": planned.passes,
        "notes": list(planned.notes),
    } | ({} if planned.memory is None else {"memory": planned.memory.content})


def top_rows(result: Result, count: int) -> list[dict[str, Any]]:
    """Give the first units of each kind and condition."""
    rows = []
    for units in result.selections:
        for condition, ranking in result.rankings[units].items():
            alone = result.scores[units].get(condition, ranking)
            for place, number in enumerate(ranking.rank()[:count].tolist(), 1):
                unit = ranking.index[number]
                rows.append(
                    {
                        "units": units,
                        "condition": condition,
                        "place": place,
                        "name": unit.name,
                        "position": list(unit.position),
                        "score": float(ranking.values[number]),
                        "alone": float(alone.values[number]),
                        "signed": _finite(float(alone.signed[number])),
                        "standard_error": _finite(float(ranking.standard_error[number])),
                    }
                )
    return rows


def save(config: Config, result: Result) -> list[str]:
    """Write scores, selections, a figure and the rows; the rows last."""
    if config.out is None:
        return []
    names = {ALL: ALL, **file_names(result.plan.counts)}
    for units, own in result.scores.items():
        for condition, scores in own.items():
            scores.save(config.out / f"scores-{units}-{names[condition]}.safetensors")
    for units, chosen in result.selections.items():
        for condition, selection in chosen.items():
            selection.save(config.out / f"selection-{units}-{names[condition]}.safetensors")
    said = []
    try:
        write_whole(config.out / "diff.png", draw(layer_rows(result), masked_rows(result)))
    except ParamattrError as error:
        said.append(str(error))
    write_whole(config.out / "diff.json", json.dumps(as_json(config, result), indent=1) + "\n")
    return said


def print_plan(console: Console, config: Config, planned: Plan) -> None:
    """Print what a run would do."""
    _print_distance(console, config, planned)
    for name, count in planned.units.items():
        masked = (
            f", of which {planned.masked[name]} would be masked" if name in planned.masked else ""
        )
        console.print(f"{name}: {count} units{masked}")
    gradients = str(planned.gradients)
    if planned.most_gradients > planned.gradients:
        gradients += f" to {planned.most_gradients}"
    console.print(
        f"{gradients} gradients and {planned.passes} passes over all samples would be "
        "taken. Nothing was written."
    )
    _print_notes(console, planned.notes)


def print_result(console: Console, config: Config, result: Result) -> None:
    """Print the tables."""
    _print_distance(console, config, result.plan)
    console.print()
    _print_objective(console, result)
    _print_layers(console, result)
    _print_top(console, result)
    _print_masked(console, config, result)
    _print_notes(console, [*result.notes, *unassigned(result)])
    if config.out is not None:
        console.print(f"Scores, selections, figure and rows are in {printable(config.out)}.")


def _print_distance(console: Console, config: Config, planned: Plan) -> None:
    apart = planned.distance
    samples = ", ".join(f"{count} {printable(name)}" for name, count in planned.counts.items())
    console.print(
        f"{printable(config.tuned)} and {printable(config.base)}: {apart.changed:,} of "
        f"{apart.parameters:,} parameters "
        f"differ; the change is {100 * apart.relative:.3g}% of the base's length, cosine "
        f"{apart.cosine:.5f}. Samples: {samples}. Objective: {planned.objective}."
    )


def _print_objective(console: Console, result: Result) -> None:
    head, rows = ["objective", "tuned", "base", "gained"], []
    if any(worth.accuracy is not None for worth in result.target.values()):
        head += ["tuned right", "base right"]
    for name, worth in result.target.items():
        other = result.baseline[name]
        cells = [name, *map(_number, (worth.objective, other.objective, result.gains[name]))]
        if worth.accuracy is not None:
            cells += [_percent(worth.accuracy), _percent(other.accuracy)]
        rows.append(cells)
    _print_columns(console, head, rows)
    values = " ".join(f"{value:.4g}" for value in result.profile.values.tolist())
    console.print(f"Objective along the path, from tuned to base: {values}.")
    console.print(f"Its barrier is {result.profile.barrier:.2f}.")
    for line in told(result.nodes, result.residual):
        console.print(line)
    console.print()


def _print_layers(console: Console, result: Result) -> None:
    every = layer_rows(result)
    rows = [row for row in every if any(row["attributed"].values())]
    names = list(result.scores[LAYER])
    shown = names if len(names) <= CONDITIONS else []
    head = ["share by layer", "change", *(shown or ["attributed"])]
    table = []
    for label, own in (
        *((row["layer"], [row]) for row in rows[:LAYERS]),
        (f"{len(rows[LAYERS:])} others", rows[LAYERS:]),
        (f"{len(every) - len(rows)} without", [row for row in every if row not in rows]),
    ):
        cells = [sum(row["attributed"][name] for row in own) for name in shown]
        cells = cells or [sum(fmean(row["attributed"].values()) for row in own)]
        if own:
            table.append([label, *map(_percent, [sum(row["change"] for row in own), *cells])])
    _print_columns(console, head, table)


def _print_top(console: Console, result: Result) -> None:
    rows = [row for row in top_rows(result, TOP) if row["score"] > 0]
    for units in (name for name in result.selections if name != LAYER):
        for condition in result.rankings[units]:
            table = [
                [_unit(row), _number(row["score"]), _number(row["standard_error"])]
                for row in rows
                if (row["units"], row["condition"]) == (units, condition)
            ]
            title = f"top {units}" + _of(condition, result)
            if table:
                _print_columns(console, [title, "score", "error"], table)
            else:
                console.print(f"{title}: none has a score above zero.\n")
    if len(result.plan.counts) > 1:
        console.print("Scores of one condition are less the mean of the others'.\n")


def _print_masked(console: Console, config: Config, result: Result) -> None:
    rows, names = masked_rows(result), list(result.plan.counts)
    several, few = len(names) > 1, len(names) <= CONDITIONS
    knows_right = any(row["accuracy"] is not None for row in rows)
    right = knows_right and not _is_right_as_before(rows, result)
    head = [f"top {100 * config.share:g}% masked", "units"]
    head += [f"{name} lost" for name in names] if few else ["lost", "others"]
    head += (["ratio"] if several else []) + (["right"] if right else [])
    table = []
    for row in rows:
        for label, prefix, key in (
            (row["units"] + _of(row["sought"], result), "", "change"),
            ("  random", "random_", "random"),
        ):
            own = [_lost(row["by_condition"][name][key], [name], result) for name in names]
            lost, others = (row[f"{prefix}{key}"] for key in ("lost", "others_lost"))
            at_home = names if row["sought"] not in names else [row["sought"]]
            cells = own if few else [_lost(lost, at_home, result), _number(others)]
            cells += [_number(row[f"{prefix}selectivity"])] if several else []
            cells += [_percent(row[f"{prefix}accuracy"])] if right else []
            of = result.plan.units[row["units"]]
            table.append([label, "" if prefix else f"{row['masked']} of {of}", *cells])
    _print_columns(console, head, table)
    place = " (layers: of the whole model)" if LAYER in result.plan.masked else ""
    values = "the base's values" if config.at == 1 else f"the path's values at {config.at:g}"
    said = (
        f"Lost: the mean objective with {values} in these units, minus the tuned model's (its "
        "share of what the fine-tuning gained). "
        f"Random: as many units of the same layers{place}, mean of {config.draws} draws."
    )
    said += " Ratio: lost by the condition sought over the others' mean." if several else ""
    if knows_right and not right:
        said += " In every row as many answers are right as with nothing masked."
    console.print(said)
    for line in [*_coarse(config, result), *nothing_found(result)]:
        console.print(line)


def _lost(change: float | None, conditions: Sequence[str], result: Result) -> str:
    share = lost_share(change, conditions, result)
    return _number(change) + ("" if share is None else f" ({round(100 * share)}%)")


def _is_right_as_before(rows: list[dict[str, Any]], result: Result) -> bool:
    """Say whether no masking changes how many answers are right: a column of one number."""
    return all(
        one[key] in (None, result.target[name].accuracy)
        for row in rows
        for name, one in row["by_condition"].items()
        for key in ("accuracy", "random_accuracy")
    )


def _coarse(config: Config, result: Result) -> list[str]:
    """Say where the share asked for is less than one unit."""
    return [
        f"{100 * config.share:g}% of {counted(count, kind)} is less than one: 1 is masked, "
        f"{100 / count:.3g}%."
        for kind, count in result.plan.units.items()
        if kind in result.plan.masked and config.share * count < 0.995
    ]


def _of(condition: str, result: Result) -> str:
    return f", {printable(condition)}" if len(result.plan.counts) > 1 else ""


def _unit(row: dict[str, Any]) -> str:
    return f"{row['name']}[{', '.join(map(str, row['position']))}]"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Lay out rows whose first cell is a name and whose others are numbers.

    Where the whole does not fit, each name stands above its numbers.

    Args:
        head: titles, one per column.
        rows: cells.
        width: width of the terminal, in letters.

    >>> print(columns(["layer", "share"], [["encoder.0", "53.6%"]], 20))
    layer      share
    encoder.0  53.6%
    >>> print(columns(["layer", "share"], [["encoder.0", "53.6%"]], 12))
    layer
        share
    encoder.0
        53.6%
    """
    table = [[printable(cell) for cell in cells] for cells in (head, *rows)]
    widths = [max(map(len, own)) for own in zip_longest(*table, fillvalue="")]
    name, numbers = widths[0], widths[1:]
    fits = name + sum(numbers) + 2 * len(numbers) <= width
    lines = []
    for cells in table:
        right = [cell.rjust(size) for cell, size in zip(cells[1:], numbers, strict=False)]
        if fits:
            lines.append("  ".join([cells[0].ljust(name), *right]).rstrip())
            continue
        lines += [cells[0][start : start + width] for start in range(0, len(cells[0]), width)]
        line = ""
        for cell in right:
            if line and len(line) + 2 + len(cell) > width:
                lines.append(line.rstrip())
                line = ""
            line += "  " + cell if line else "    " + cell
        lines.append(line.rstrip())
    return "\n".join(lines)


def _print_columns(console: Console, head: list[str], rows: list[list[str]]) -> None:
    print(columns(head, rows, console.width), end="\n\n", file=console.file)


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"Note: {printable(note)}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if 10 <= abs(value) < 1e5 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_each(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in values.items()}

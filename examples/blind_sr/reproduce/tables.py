"""The paper's tables 1 to 3 in Markdown, what it reports beside what is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from blind_sr.compare.report import with_interval
from blind_sr.data.measures import PLANE_LABELS, PLANES
from blind_sr.labels import FUNCTIONS, INPUT_LABELS, LABELS
from blind_sr.labels import PAPER as METHODS
from blind_sr.reproduce import paper


def table_1(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    """Lay out what `train` measured on both branches, and add to the departures."""
    networks = result["networks"]
    conditions = ("blur", "noise", "both", "clean")
    rows = [
        [
            name,
            *(f"{paper.TABLE_1[name][c]:.2f}" for c in ("blur", "both")),
            *(f"{own['psnr'][c]:.2f}" for c in conditions),
            f"{own['parameters']:,}",
        ]
        for name, own in networks.items()
    ]
    one, two = (networks[name]["psnr"] for name in ("one-branch", "two-branch"))
    behind = [
        f"{two[c] - one[c]:.2f} dB ({INPUT_LABELS[c]} input)"
        for c in ("blur", "both")
        if one[c] < two[c]
    ]
    if behind:
        departures.append(f"- Table 1: one branch is behind two by {' and '.join(behind)}")
    header = ["network", "paper: blurry", "paper: blurry and noisy"]
    here = ["here: blurry", "noisy", "blurry and noisy", "clean", "parameters"]
    return [
        "## Table 1: can one branch match two?",
        markdown([*header, *here], rows),
        f"PSNR in dB after {counted(result['iterations'], 'iteration')} each on the same patches, "
        "on photographs held out. The paper's rows are DASR and an SRResNet of its size on the "
        "test set of its Tab. 1.",
    ]


def table_2(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    """Lay out what `compare` measured, and add to the departures."""
    own = {
        (row["mask"], row["pct"], row["method"]): row
        for row in result["rows"]
        if row["mask"] == row["input"]
    }
    rows, ratios = [], []
    for (function, pct), reported in paper.TABLE_2.items():
        label = f"{INPUT_LABELS[function]}, {pct}%"
        rows.append([label, "paper", *(f"{reported[m]:.2f}" for m in METHODS)])
        ratios.append([label, "paper", *_over_others(reported)])
        for plane, name in PLANE_LABELS.items():
            rows.append(
                [
                    "",
                    f"here, {name}",
                    *(with_interval(own[function, pct, m], plane) for m in METHODS),
                ]
            )
            here = {m: own[function, pct, m][f"difference{plane}_x1000"] for m in METHODS}
            ratios.append(["", f"here, {name}", *_over_others(here)])
            order = sorted(METHODS, key=lambda m: -here[m])
            if order != list(METHODS):
                departures.append(
                    f"Table 2, {label}, {name}: the order is {', '.join(LABELS[m] for m in order)}"
                )
    others = [m for m in dict.fromkeys(r["method"] for r in result["rows"]) if m not in METHODS]
    selective = {
        (row["mask"], round(100 * row["fraction"])): _over_other(row)
        for row in result["selectivity"]
        if row["method"] == "faig"
    }
    parts = [
        "### Table 2: masking the filters found",
        "Output difference x1000 (mean squared difference of gradient maps) on the function's own "
        "input; in brackets the 95% bootstrap interval over photographs. The paper says grey "
        "images, but its script measures the blue channel: compare the blue rows with the paper's. "
        + measured_on(result),
        markdown(["input, filters", "", *(LABELS[m] for m in METHODS)], rows),
        "FAIG over the others:",
        markdown(["input, filters", "", *(f"over {LABELS[m]}" for m in METHODS[1:])], ratios),
        "What masking FAIG's filters does to their own input, over what it does to the other, "
        "grey / blue: "
        + ", ".join(
            f"{value} ({FUNCTIONS[function]}, {pct}%)"
            for (function, pct), value in selective.items()
        )
        + ".",
    ]
    if others:
        heads = [f"{INPUT_LABELS[f]}, {p}%" for f, p in paper.TABLE_2]
        body = [[LABELS[m], *(both_planes(own[f, p, m]) for f, p in paper.TABLE_2)] for m in others]
        parts += [
            "Methods that the paper does not have, on grey / blue:",
            markdown(["method", *heads], body),
        ]
    return parts


def table_3(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    """Lay out what `retrain` measured, and add to the departures."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in result["rows"]:
        groups.setdefault((row["input"], row["method"], row["filters"]), []).append(row["psnr"])
    mean = {key: statistics.fmean(values) for key, values in groups.items()}
    columns = [("all", "all"), *((m, f) for f in FUNCTIONS for m in METHODS)]
    heads = ["all" if m == "all" else f"{LABELS[m]}, {FUNCTIONS[f]}" for m, f in columns]
    rows = []
    for condition, reported in paper.TABLE_3.items():
        rows.append([INPUT_LABELS[condition], "paper", *(f"{reported[c]:.2f}" for c in columns)])
        rows.append(["", "here", *(_spread(groups[condition, m, f]) for m, f in columns)])
    gains = []
    for f in FUNCTIONS:
        gain = mean[f, "faig", f] - mean[f, "random", f]
        reported_gain = paper.TABLE_3[f]["faig", f] - paper.TABLE_3[f]["random", f]
        gains.append(
            f"- {INPUT_LABELS[f]} input, FAIG's {FUNCTIONS[f]} filters over random ones: "
            f"{gain:+.2f} dB here, {reported_gain:+.2f} dB in the paper"
        )
        most, method, filters = max((mean[f, m, g], m, g) for m, g in columns[1:])
        if (method, filters) != ("faig", f):
            departures.append(
                f"Table 3, {INPUT_LABELS[f]} input: {LABELS[method]}'s {FUNCTIONS[filters]} "
                f"filters gain most, {most - mean[f, 'faig', f]:.2f} dB more than FAIG's "
                f"{FUNCTIONS[f]} filters"
            )
    recipe, images = result["recipe"], result["images"]
    return [
        "### Table 3: retraining only the filters found",
        markdown(["input", "", *heads], rows),
        f"PSNR in dB (RGB, border of 2) after {counted(result['iterations'], 'iteration')} of "
        f"batch {recipe['batch-size']}, {counted(result['seeds'], 'repetition')}"
        + (", mean and standard deviation" if result["seeds"] > 1 else "")
        + "; a column names the method and whose 1% of the filters were retrained from the "
        "baseline, which has "
        + ", ".join(f"{v:.2f} ({INPUT_LABELS[c]})" for c, v in result["baseline"].items())
        + ". Every weight outside the selection is the baseline's, bit for bit. Filters found and "
        f"PSNR measured on {cropped(images['test'], recipe['crop'])}, "
        f"{counted(recipe['steps'], 'node')}; trained on "
        f"{counted(len(images['train']), 'photograph')}.",
        "\n".join(gains),
    ]


def _over_others(values: Mapping[str, float]) -> list[str]:
    return [f"{values['faig'] / values[m]:.1f}" if values[m] else "" for m in METHODS[1:]]


def _over_other(row: Mapping[str, Any]) -> str:
    values = (row[f"value{plane}"] for plane in PLANES)
    return " / ".join("none" if value is None else f"{value:.1f}" for value in values)


def both_planes(row: Mapping[str, Any]) -> str:
    """Write an output difference by both measures: grey / blue."""
    return " / ".join(f"{row[f'difference{plane}_x1000']:.2f}" for plane in PLANES)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows of cells out as a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def counted(number: int, noun: str) -> str:
    """Give a number with its noun: 1 iteration, 7,500 iterations."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def cropped(photographs: Sequence[str], crop: int) -> str:
    """Say how many photographs, and which part of each."""
    if not crop:
        return counted(len(photographs), "whole photograph")
    return f"{counted(len(photographs), 'photograph')}, {middle(crop)}"


def middle(crop: int) -> str:
    """Say which part of every photograph is used, of which a crop of 0 leaves all."""
    return f"middle {crop} x {crop} low-resolution pixels" if crop else "whole photographs"


def measured_on(result: Mapping[str, Any]) -> str:
    """Say on what a result was measured, with how many nodes."""
    nodes = counted(result["steps"], f"{result['quadrature']} node")
    return f"{cropped(result['images'], result['crop'])}, {nodes}."


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"

"""The page that lays what is measured here beside the paper's tables, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blind_sr import paper
from blind_sr.rankings import LABELS
from blind_sr.report import with_interval

METHODS = ("faig", "ig", "absolute-change", "random")
"""The methods of the paper's tables, in the order that it finds."""
FUNCTIONS = {"blur": "deblurring", "noise": "denoising"}
INPUTS = {"blur": "blurry", "noise": "noisy"}
NETWORKS = {"srresnet": "SRResNet", "srcnn": "SRCNN-style"}
PICTURES = {
    "mask": "Figure 2: the 1% of each function masked",
    "curves": "Figure 3: masking from 0 to 100% of the filters",
    "distribution": "Figure 4: where the 1% lie",
    "no-contrast": "Figure 5: the 1% masked that are found without the contrast",
    "retrain": "Table 3 as gains over the baseline",
    "overlaps": "Overlap scores of every input (Sec. 5.3)",
    "modulate-blur": "Modulating the deblurring filters",
    "modulate-noise": "Modulating the denoising filters",
}
"""Name of a picture to its title, in the order of the page."""


def page(
    results: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Path], facts: Sequence[str]
) -> str:
    """Lay the results of all steps beside the paper's tables.

    Args:
        results: name of a step, `NETWORK-COMMAND`, to what its command wrote.
        figures: `NETWORK-PICTURE` to a picture, as a path relative to the page.
        facts: what was run on what, a paragraph each.
    """
    parts, departures = ["# Reproduction", *facts], list[str]()
    if "two-branch-train" in results:
        parts += _table_1(results["two-branch-train"], departures)
    for network, title in NETWORKS.items():
        own = {
            name.removeprefix(f"{network}-"): result
            for name, result in results.items()
            if name.startswith(f"{network}-")
        }
        if not own:
            continue
        found: list[str] = []
        parts.append(f"## {title}")
        if network != "srresnet":
            parts.append("The paper's figures beside these are those of its SRResNet.")
        parts += _table_2(own["compare"], found)
        parts += _without_contrast(own["mask"])
        parts += _depths(own["mask"], found)
        parts += _table_3(own["retrain"], found)
        for reference in ("self", "truth"):
            parts += _prediction(own[f"predict-{reference}"], found)
        for function in FUNCTIONS:
            parts += _modulation(own[f"modulate-{function}"])
        for name, picture in PICTURES.items():
            if f"{network}-{name}" in figures:
                path = figures[f"{network}-{name}"].as_posix()
                parts.append(f"**{picture}**\n\n![{title}. {picture}]({path})")
        departures += [f"- {title}: {one}" for one in found]
    parts.append("## Where this departs from the paper")
    parts.append("\n".join(departures) if departures else "Nowhere in sign.")
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _table_1(result: Mapping[str, Any], departures: list[str]) -> list[str]:
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
    labels = {"blur": "blurry", "both": "blurry and noisy"}
    behind = [f"{two[c] - one[c]:.2f} dB ({labels[c]} input)" for c in labels if one[c] < two[c]]
    if behind:
        departures.append(f"- Table 1: one branch is behind two by {' and '.join(behind)}")
    header = ["network", "paper: blurry", "paper: blurry and noisy"]
    here = ["here: blurry", "noisy", "blurry and noisy", "clean", "parameters"]
    return [
        "## Table 1: can one branch match two?",
        _table([*header, *here], rows),
        f"PSNR in dB after {result['iterations']:,} iterations each on the same patches, on "
        "photographs held out. The paper's rows are DASR and an SRResNet of its size on the test "
        "set of its Tab. 1.",
    ]


def _table_2(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    own = {
        (row["mask"], row["pct"], row["method"]): row
        for row in result["rows"]
        if row["mask"] == row["input"]
    }
    rows, ratios = [], []
    for (function, pct), reported in paper.TABLE_2.items():
        found = {m: own[function, pct, m] for m in METHODS}
        here = {m: row["difference_x1000"] for m, row in found.items()}
        label = f"{INPUTS[function]}, {pct}%"
        rows.append([label, "paper", *(f"{reported[m]:.2f}" for m in METHODS)])
        rows.append(["", "here", *(with_interval(found[m]) for m in METHODS)])
        for place, (who, values) in enumerate((("paper", reported), ("here", here))):
            over = [f"{values['faig'] / values[m]:.1f}" if values[m] else "" for m in METHODS[1:]]
            ratios.append(["" if place else label, who, *over])
        order = sorted(METHODS, key=lambda m: -here[m])
        if order != list(METHODS):
            departures.append(
                f"Table 2, {label}: the order is {', '.join(LABELS[m] for m in order)}"
            )
    others = [m for m in dict.fromkeys(r["method"] for r in result["rows"]) if m not in METHODS]
    selective = {
        (row["mask"], round(100 * row["fraction"])): row["value"]
        for row in result["selectivity"]
        if row["method"] == "faig"
    }
    parts = [
        "### Table 2: masking the filters found",
        "Output difference x1000 (mean squared difference of gradient maps) on the function's own "
        "input; in brackets the 95% bootstrap interval over photographs. " + _measured_on(result),
        _table(["input, filters", "", *(LABELS[m] for m in METHODS)], rows),
        "FAIG over the others:",
        _table(["input, filters", "", *(f"over {LABELS[m]}" for m in METHODS[1:])], ratios),
        "What masking FAIG's filters does to their own input, over what it does to the other: "
        + ", ".join(
            f"{value:.1f} ({FUNCTIONS[function]}, {pct}%)"
            for (function, pct), value in selective.items()
            if value is not None
        )
        + ".",
    ]
    if others:
        heads = [f"{INPUTS[f]}, {p}%" for f, p in paper.TABLE_2]
        body = [
            [LABELS[m], *(f"{own[f, p, m]['difference_x1000']:.2f}" for f, p in paper.TABLE_2)]
            for m in others
        ]
        parts += ["Methods that the paper does not have:", _table(["method", *heads], body)]
    return parts


def _without_contrast(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for method in ("faig", "faig-no-contrast"):
        found = {
            (row["mask"], row["input"]): row["difference_x1000"]
            for row in result["rows"]
            if row["method"] == method
        }
        rows.append([LABELS[method], *(f"{found[f, i]:.2f}" for f in FUNCTIONS for i in INPUTS)])
    heads = [f"{FUNCTIONS[f]} masked: {INPUTS[i]}" for f in FUNCTIONS for i in INPUTS]
    return [
        "### With and without the contrast (Fig. 5, Sec. 5.4)",
        _table(["1% found by", *heads], rows),
        f"Output difference x1000. {_measured_on(result)}",
    ]


def _depths(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    depth = result["depth"]
    if depth["blur"] <= depth["noise"]:
        departures.append("Figure 4: deblurring filters do not lie deeper than denoising ones")
    return [
        "### Figure 4: where the filters lie",
        f"Mean depth of the 1% (0 the first layer, 1 the last): deblurring {depth['blur']:.2f}, "
        f"denoising {depth['noise']:.2f}. The paper: deblurring filters lie more in the back part "
        "of the network, denoising filters are spread more evenly.",
    ]


def _table_3(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in result["rows"]:
        groups.setdefault((row["input"], row["method"], row["filters"]), []).append(row["psnr"])
    mean = {key: statistics.fmean(values) for key, values in groups.items()}
    columns = [("all", "all"), *((m, f) for f in FUNCTIONS for m in METHODS)]
    heads = ["all" if m == "all" else f"{LABELS[m]}, {FUNCTIONS[f]}" for m, f in columns]
    rows = []
    for condition, reported in paper.TABLE_3.items():
        rows.append([INPUTS[condition], "paper", *(f"{reported[c]:.2f}" for c in columns)])
        rows.append(["", "here", *(_spread(groups[condition, m, f]) for m, f in columns)])
    gains = []
    for f in FUNCTIONS:
        gain = mean[f, "faig", f] - mean[f, "random", f]
        reported_gain = paper.TABLE_3[f]["faig", f] - paper.TABLE_3[f]["random", f]
        gains.append(
            f"- {INPUTS[f]} input, FAIG's {FUNCTIONS[f]} filters over random ones: {gain:+.2f} dB "
            f"here, {reported_gain:+.2f} dB in the paper"
        )
        most, method, filters = max((mean[f, m, g], m, g) for m, g in columns[1:])
        if (method, filters) != ("faig", f):
            departures.append(
                f"Table 3, {INPUTS[f]} input: {LABELS[method]}'s {FUNCTIONS[filters]} filters gain "
                f"most, {most - mean[f, 'faig', f]:.2f} dB more than FAIG's {FUNCTIONS[f]} filters"
            )
    recipe = result["recipe"]
    return [
        "### Table 3: retraining only the filters found",
        _table(["input", "", *heads], rows),
        f"PSNR in dB (RGB, border of 2) after {result['iterations']:,} iterations of batch "
        f"{recipe['batch-size']}, {result['seeds']} repetition"
        + ("s, mean and standard deviation" if result["seeds"] > 1 else "")
        + "; a column names the method and whose 1% of the filters were retrained from the "
        "baseline, which has "
        + ", ".join(f"{v:.2f} ({INPUTS[c]})" for c, v in result["baseline"].items())
        + ". Every weight outside the selection is the baseline's, to the bit.",
        "\n".join(gains),
    ]


def _prediction(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    mode = "the target's own output" if result["mode"] == "self" else "the ground truth"
    answers = list(next(iter(result["confusion"].values())))
    counts = result["counts"]
    departures += [
        f"Prediction with {mode}: {100 * result['accuracy'][c]:.1f}% for {INPUTS[c]} inputs is "
        "below the paper's"
        for c in INPUTS
        if result["accuracy"][c] < paper.PREDICTION["accuracy"][c]
    ]
    return [
        f"### Degradation prediction, compared with {mode}",
        _table(
            ["inputs", "accuracy, paper", "here", "threshold, paper", "here"],
            [
                [
                    INPUTS[c],
                    f"{100 * paper.PREDICTION['accuracy'][c]:.0f}%",
                    f"{100 * result['accuracy'][c]:.1f}%",
                    f"{paper.PREDICTION['thresholds'][c]:.2f}",
                    f"{result['thresholds'][c]:.2f}",
                ]
                for c in INPUTS
            ],
        ),
        f"Filters from {counts['find']} photographs, thresholds from {counts['fit']}, tested on "
        f"{counts['test']}, each blurry, noisy and clean; crops of {result['crop']} low-resolution "
        f"pixels, {result['steps']} nodes. The paper's figures are with the ground truth."
        + (
            f" {counts['repeated']} of the tested photographs also served to find or fit."
            if counts["repeated"]
            else ""
        ),
        _table(
            ["input", *(f"said {answer}" for answer in answers)],
            [[k, *(str(n) for n in own.values())] for k, own in result["confusion"].items()],
        ),
    ]


def _modulation(result: Mapping[str, Any]) -> list[str]:
    function = result["filters"]
    shown = [r for r in result["rows"] if r["input"] == function]
    best = max(shown, key=lambda r: r["psnr"])
    ends = {round(r["strength"], 6): r["psnr"] for r in shown}
    return [
        f"Modulating the {FUNCTIONS[function]} filters, {INPUTS[function]} input: "
        f"{ends[0.0]:.2f} dB at strength 0, {ends[1.0]:.2f} dB at 1, best {best['psnr']:.2f} dB at "
        f"{best['strength']:.1f}.",
    ]


def _measured_on(result: Mapping[str, Any]) -> str:
    return (
        f"{len(result['images'])} photographs, middle {result['crop']} x {result['crop']} "
        f"low-resolution pixels, {result['steps']} {result['quadrature']} nodes."
    )


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"

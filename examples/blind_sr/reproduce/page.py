"""The page that lays what is measured here beside the paper's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blind_sr.labels import FUNCTIONS, INPUT_LABELS, LABELS, MASKS, PAIR_LABELS
from blind_sr.reproduce import paper
from blind_sr.reproduce.summary import summary
from blind_sr.reproduce.tables import (
    both_planes,
    counted,
    markdown,
    measured_on,
    middle,
    table_1,
    table_2,
    table_3,
)
from paramattr.files.writing import write_whole

PICTURES = {
    "mask": "Figure 2: the 1% of each function masked",
    "curves": "Figure 3: masking from 0 to 100% of the filters, in grey",
    "curves-blue": "Figure 3: masking from 0 to 100% of the filters, on the blue channel",
    "distribution": "Figure 4: where the 1% lie",
    "no-contrast": "Figure 5: the 1% masked that are found without the contrast",
    "retrain": "Table 3 as gains over the baseline",
    "overlaps": "Overlap scores of every input (Sec. 5.3)",
    "modulate-blur": "Modulating the deblurring filters",
    "modulate-noise": "Modulating the denoising filters",
}
"""Name of a picture to its title, in the order of the page."""
BY_HAND = "<!-- by hand -->"
"""The line of a page from which on it is a person's."""


def page(
    results: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Path],
    facts: Sequence[str],
    *,
    left_out: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> str:
    """Lay the results of steps beside the paper's tables.

    Args:
        results: name of a step, `NETWORK-COMMAND`, to what its command wrote.
        figures: `NETWORK-PICTURE` to a picture, as a path relative to the page.
        facts: what was run on what, a paragraph each.
        left_out: names of the steps that are not to be run.
        missing: names of the steps that are still to be run.
    """
    parts, departures = ["# Reproduction", *summary(results), *facts], list[str]()
    if "two-branch-train" in results:
        parts += table_1(results["two-branch-train"], departures)
    for network, title in PAIR_LABELS.items():
        own = {
            name.removeprefix(f"{network}-"): result
            for name, result in results.items()
            if name.startswith(f"{network}-")
        }
        if own:
            pictures = {
                name: figures[f"{network}-{name}"]
                for name in PICTURES
                if f"{network}-{name}" in figures
            }
            found: list[str] = []
            parts += _network(network, own, pictures, found)
            departures += [f"- {title}: {one}" for one in found]
    parts.append("## Where this departs from the paper")
    nowhere = (
        "Nowhere in sign, as far as it was run." if left_out or missing else "Nowhere in sign."
    )
    parts.append("\n".join(departures) or nowhere)
    for title, names in (("Left out here", left_out), ("Not run yet", missing)):
        if names:
            parts.append(f"{title}: {', '.join(f'`{name}`' for name in names)}.")
    return "\n\n".join(parts) + "\n"


def write(file: Path, text: str) -> None:
    """Put a page in the place of an older one, whose lines from `BY_HAND` on stay at the end."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    starts = [number for number, line in enumerate(lines) if line.strip() == BY_HAND]
    kept = ["\n", *lines[starts[0] :]] if starts else []
    write_whole(file, "".join([text, *kept]))


def _network(
    network: str,
    own: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, Path],
    departures: list[str],
) -> list[str]:
    title = PAIR_LABELS[network]
    parts = [f"## {title}"]
    if network != "srresnet":
        parts.append("The paper's figures beside these are those of its SRResNet.")
    if "compare" in own:
        parts += table_2(own["compare"], departures)
    if "mask" in own:
        parts += _without_contrast(own["mask"])
        parts += _depths(own["mask"], departures)
    if "retrain" in own:
        parts += table_3(own["retrain"], departures)
    for name in ("predict-self", "predict-truth"):
        parts += _prediction(own[name], departures) if name in own else []
    for name in ("modulate-blur", "modulate-noise"):
        parts += _modulation(own[name]) if name in own else []
    for name, path in pictures.items():
        parts.append(f"**{PICTURES[name]}**\n\n![{title}. {PICTURES[name]}]({path.as_posix()})")
    return parts


def _without_contrast(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for method in ("faig", "faig-no-contrast"):
        found = {
            (row["mask"], row["input"]): both_planes(row)
            for row in result["rows"]
            if row["method"] == method
        }
        rows.append([LABELS[method], *(found[f, i] for f in FUNCTIONS for i in MASKS)])
    heads = [f"{FUNCTIONS[f]} masked: {INPUT_LABELS[i]}" for f in FUNCTIONS for i in MASKS]
    return [
        "### With and without the contrast (Fig. 5, Sec. 5.4)",
        markdown(["1% found by", *heads], rows),
        f"Output difference x1000, grey / blue. {measured_on(result)}",
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


def _prediction(result: Mapping[str, Any], departures: list[str]) -> list[str]:
    mode = "the target's own output" if result["mode"] == "self" else "the ground truth"
    answers = list(next(iter(result["confusion"].values())))
    counts = result["counts"]
    departures += [
        f"Prediction with {mode}: {100 * result['accuracy'][c]:.1f}% for {INPUT_LABELS[c]} inputs "
        "is below the paper's"
        for c in MASKS
        if result["accuracy"][c] < paper.PREDICTION["accuracy"][c]
    ]
    return [
        f"### Degradation prediction, compared with {mode}",
        markdown(
            ["inputs", "accuracy, paper", "here", "threshold, paper", "here"],
            [
                [
                    INPUT_LABELS[c],
                    f"{100 * paper.PREDICTION['accuracy'][c]:.0f}%",
                    f"{100 * result['accuracy'][c]:.1f}%",
                    f"{paper.PREDICTION['thresholds'][c]:.2f}",
                    f"{result['thresholds'][c]:.2f}",
                ]
                for c in MASKS
            ],
        ),
        f"Filters from {counted(counts['find'], 'photograph')}, thresholds from {counts['fit']}, "
        f"tested on {counts['test']}, each clean, blurry, noisy and both; "
        f"{middle(result['crop'])}, {counted(result['steps'], 'node')}. "
        "The paper's figures are with the ground truth."
        + (
            f" {counts['repeated']} of the tested photographs also served to find or fit."
            if counts["repeated"]
            else ""
        ),
        markdown(
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
        f"Modulating the {FUNCTIONS[function]} filters, {INPUT_LABELS[function]} input: "
        f"{ends[0.0]:.2f} dB at strength 0, {ends[1.0]:.2f} dB at 1, best {best['psnr']:.2f} dB at "
        f"{best['strength']:.1f}. {measured_on(result)}",
    ]

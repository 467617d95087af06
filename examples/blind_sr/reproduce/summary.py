"""What of the paper a run shows, in ten lines at most: the first lines of the page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from blind_sr.data.measures import PLANE_LABELS
from blind_sr.labels import FUNCTIONS, INPUT_LABELS, MASKS, PAIR_LABELS
from blind_sr.labels import PAPER as METHODS
from blind_sr.reproduce import paper

Result = Mapping[str, Any]

BEGINS = (
    "What of the paper is seen here; masking by both measures, grey as the paper says and blue as "
    "its authors' script measures:"
)


def summary(results: Mapping[str, Result]) -> list[str]:
    """Say what of the paper is seen, a line per claim, by both measures where it has two.

    Args:
        results: name of a step, `NETWORK-COMMAND`, to what its command wrote.
    """
    lines = []
    if "two-branch-train" in results:
        lines.append(_branches(results["two-branch-train"]))
    for (claim, command), say in CLAIMS.items():
        said = [
            f"{title} {say(results[f'{network}-{command}'])}"
            for network, title in PAIR_LABELS.items()
            if f"{network}-{command}" in results
        ]
        if said:
            lines.append(f"{claim}: {'; '.join(said)}.")
    return [BEGINS, "\n".join(f"- {line}" for line in lines)] if lines else []


def _branches(result: Result) -> str:
    one, two = (result["networks"][name]["psnr"] for name in ("one-branch", "two-branch"))
    said = [f"{one[c] - two[c]:+.2f} dB ({INPUT_LABELS[c]} input)" for c in ("blur", "both")]
    return f"One branch over two, Tab. 1: {', '.join(said)}."


def _differences(result: Result, plane: str) -> dict[tuple[str, int, str], float]:
    return {
        (row["mask"], row["pct"], row["method"]): row[f"difference{plane}_x1000"]
        for row in result["rows"]
        if row["mask"] == row["input"]
    }


def _order(result: Result) -> str:
    said = []
    for plane, label in PLANE_LABELS.items():
        own = _differences(result, plane)
        kept = [
            sorted(METHODS, key=lambda m, f=f, p=p, own=own: -own[f, p, m]) == list(METHODS)  # type: ignore[misc]
            for f, p in paper.TABLE_2
        ]
        said.append(f"in {sum(kept)} of {len(kept)} cells in {label}")
    return " and ".join(said)


def _over(other: str) -> Callable[[Result], str]:
    def say(result: Result) -> str:
        said = []
        for f in MASKS:
            reported = paper.TABLE_2[f, 1]
            here = [
                f"{own[f, 1, 'faig'] / own[f, 1, other]:.1f} {label}"
                for plane, label in PLANE_LABELS.items()
                if (own := _differences(result, plane))[f, 1, other]
            ]
            own_paper = f"paper {reported['faig'] / reported[other]:.1f}"
            said.append(f"{FUNCTIONS[f]} {', '.join([*here, own_paper])}")
        return " / ".join(said)

    return say


def _selective(result: Result) -> str:
    found = {
        row["mask"]: row
        for row in result["selectivity"]
        if (row["method"], row["fraction"]) == ("faig", 0.01)
    }
    return " / ".join(
        f"{FUNCTIONS[f]} "
        + ", ".join(
            f"{row[f'value{plane}']:.1f} {label}"
            for plane, label in PLANE_LABELS.items()
            if row[f"value{plane}"] is not None
        )
        for f, row in found.items()
    )


def _contrasted(result: Result) -> str:
    moved = {
        (row["method"], plane): row[f"difference{plane}_x1000"]
        for row in result["rows"]
        if (row["mask"], row["input"]) == ("blur", "noise")
        for plane in PLANE_LABELS
    }
    return ", ".join(
        f"{moved['faig', plane]:.2f} with it, {moved['faig-no-contrast', plane]:.2f} without "
        f"({label})"
        for plane, label in PLANE_LABELS.items()
    )


def _depths(result: Result) -> str:
    return f"{result['depth']['blur']:.2f} and {result['depth']['noise']:.2f}"


def _retrained(result: Result) -> str:
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in result["rows"]:
        if row["method"] != "all":
            groups.setdefault((row["input"], row["method"], row["filters"]), []).append(row["psnr"])
    mean = {key: statistics.fmean(values) for key, values in groups.items()}
    said = []
    for f in MASKS:
        most = max(value for (condition, *_), value in mean.items() if condition == f)
        first = "most of all" if mean[f, "faig", f] == most else "not most of all"
        gain = mean[f, "faig", f] - mean[f, "random", f]
        said.append(f"{INPUT_LABELS[f]} input {gain:+.2f} dB, {first}")
    return " / ".join(said)


def _predicted(result: Result) -> str:
    return " / ".join(f"{INPUT_LABELS[c]} {100 * result['accuracy'][c]:.1f}%" for c in MASKS)


CLAIMS: dict[tuple[str, str], Callable[[Result], str]] = {
    ("The paper's order of the four methods, Tab. 2", "compare"): _order,
    ("FAIG over modified IG, 1% masked", "compare"): _over("ig-no-contrast"),
    ("FAIG over random, 1% masked", "compare"): _over("random"),
    ("Own input over the other, FAIG's 1% masked", "compare"): _selective,
    ("What FAIG's 1% of deblurring filters do to the noisy input, contrast", "mask"): _contrasted,
    ("Mean depth of the deblurring and the denoising 1%, Fig. 4", "mask"): _depths,
    ("Gain of FAIG's 1% retrained over random ones, Tab. 3", "retrain"): _retrained,
    ("Inputs told apart by the target's own output", "predict-self"): _predicted,
    ("Inputs told apart by the ground truth (paper 96 and 98%)", "predict-truth"): _predicted,
}
"""What is said and the command whose result it is of, to what says it of a network."""

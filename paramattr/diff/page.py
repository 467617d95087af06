"""The page of a diff."""

from __future__ import annotations

import io
from typing import Any

from paramattr.diff.config import Config
from paramattr.diff.examples import illustrate
from paramattr.diff.material import Material
from paramattr.diff.result import Result, page_of
from paramattr.errors import ParamattrError, printable
from paramattr.figures import COLOURS, GREY, empty_figure
from paramattr.report.page import check_installed

LAYERS = 24
LETTERS = 40
"""Of a condition's name: a longer one leaves no room to draw in."""


def draw(layers: list[dict[str, Any]], masked: list[dict[str, Any]]) -> bytes:
    """Draw each layer's share of the attributions and of the change, and the losses; as PNG.

    Args:
        layers: of `paramattr.diff.report.layer_rows`.
        masked: of `paramattr.diff.report.masked_rows`.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    shown = layers[:LAYERS]
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

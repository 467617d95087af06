"""Figures without pyplot: no window and no state is behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#7a5cc8")
"""Okabe and Ito's colours, which the colour-blind tell apart, and two more. Each can be seen on
white and on black."""
GREY = "#777777"
STYLES = ("-", "--", ":", "-.")

METHOD_COLOURS = {
    "faig": "#0072b2",
    "ig": "#e69f00",
    "modified-ig": "#e69f00",
    "taylor-target": "#009e73",
    "gradient-times-change": "#009e73",
    "gradient-x-change": "#009e73",
    "taylor-middle": "#56b4e9",
    "taylor-baseline": "#cc79a7",
    "fisher": "#d55e00",
    "fisher-times-change": "#d55e00",
    "fisher-x-change": "#d55e00",
    "absolute-change": "#8c6d31",
    "change": "#8c6d31",
    "weight-magnitude": "#7a5cc8",
    "weight": "#7a5cc8",
    "substitution": "#c2185b",
    "layer-conductance": "#b03a3a",
    "internal-influence": "#6b9e1f",
    "layer-integrated-gradients": "#1aa3a3",
    "layer-gradient-x-activation": "#e0559b",
    "layer-feature-ablation": "#9a9a00",
    "random": GREY,
    "random-within-layers": "#a3a3a3",
}
"""The one colour of each method, in every figure and report. A method's variant without the
contrast has its colour, dashed."""
VARIANT = "-no-contrast"


class Look(NamedTuple):
    """How a method is drawn: its colour, and matplotlib's style of its line."""

    colour: str
    style: str


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Give each method the look it has everywhere, and others one that is still free.

    Args:
        methods: names, in their order. Case does not count, nor whether words are joined by `_`,
            `-` or blanks.

    >>> looks(["FAIG", "FAIG no contrast", "mine"])["FAIG no contrast"]
    Look(colour='#0072b2', style='--')
    """
    known: dict[str, Look] = {}
    for method in methods:
        name = re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")
        colour = METHOD_COLOURS.get(name.removesuffix(VARIANT))
        if colour is not None:
            known[method] = Look(colour, "--" if name.endswith(VARIANT) else "-")
    taken = {look.colour for look in known.values()}
    free = [Look(c, style) for style, c in product(STYLES, COLOURS) if c not in taken]
    free += [Look(c, style) for style, c in product(STYLES[2:], COLOURS) if c in taken]
    others = [method for method in methods if method not in known]
    known |= {method: free[place % len(free)] for place, method in enumerate(others)}
    return {method: known[method] for method in methods}


def empty_figure(size: tuple[float, float]) -> Figure:
    """Make a figure that notebooks show.

    Args:
        size: in inches.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ParamattrError(
            'figures need matplotlib: install it with pip install "paramattr[plots]"'
        ) from None
    return Figure(figsize=size, layout="constrained")

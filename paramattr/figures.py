"""Figures without pyplot: no window and no state is behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#332288")
"""Okabe and Ito's colours, which the colour-blind tell apart, and two more."""
GREY = "#777777"


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

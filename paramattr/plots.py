"""Figures of curves and selections. Each function gives a matplotlib `Figure`."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from paramattr.errors import ParamattrError
from paramattr.faithfulness.comparison import CONTROL, Comparison
from paramattr.faithfulness.curves import Curve
from paramattr.figures import COLOURS as COLOURS
from paramattr.figures import GREY as GREY
from paramattr.figures import STYLES as STYLES
from paramattr.figures import Look, empty_figure, looks
from paramattr.report.blocks import Change, Modulation, State
from paramattr.scoring.profile import PathProfile
from paramattr.trajectories import Trajectory
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection
from paramattr.units.showing import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

TICKS = (0, 1, 5, 10, 25, 50, 75, 100)


def plot_comparison(
    comparison: Comparison,
    *,
    labels: Mapping[str, str] | None = None,
    measured_labels: Mapping[str, str] | None = None,
    verb: str = "exchanged",
    measure: str = "measure",
    units: str = "units",
) -> Figure:
    """Draw the curves of a comparison: a column a function, a row own and other measures.

    The first method is drawn thick with its interval, the control grey with its interval. The
    horizontal axis is a square root, so that small shares can be read. Each method has the colour
    that it has in every figure (`paramattr.figures.METHOD_COLOURS`). Where the comparison knows
    the truth, edits that are damage are crossed out, and the legend says so.

    Args:
        comparison: of `paramattr.compare`.
        labels: what methods and functions are called in the figure; their names by default.
        measured_labels: what functions are called where they are measured; as in `labels` by
            default.
        verb: what happens to the units, such as `"masked"`.
        measure: what the vertical axis is called.
        units: what the horizontal axis counts.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    labels = dict(labels or {})
    measured_labels = {**labels, **(measured_labels or {})}
    drawn = looks(list(comparison.rankings))
    damaged = {
        (row["method"], row["function"], row["fraction"])
        for row in (comparison.damage() if comparison.truth is not None else [])
        if row["damage"]
    }
    functions = list(dict.fromkeys(function for _, function, _ in comparison.curves))
    figure = empty_figure((4.2 * len(functions) + 2.6, 3.1 * len(functions) + 0.9))
    grid = figure.subplots(len(functions), len(functions), sharex=True, squeeze=False)
    for column, function in enumerate(functions):
        others = [function, *(other for other in functions if other != function)]
        for row, measured in enumerate(others):
            axis = grid[row][column]
            for number, method in enumerate(comparison.rankings):
                curve = comparison.curves[method, function, measured]
                main = number == 0 or method == CONTROL
                label = labels.get(method, method)
                _draw(axis, curve, comparison, drawn[method], label, main=main)
                crossed = [f for f in curve.fractions if (method, function, f) in damaged]
                _cross_out(axis, curve, crossed)
            what = measured_labels.get(measured, measured)
            axis.set_title(f"{labels.get(function, function)} {units} {verb}: {what}", fontsize=9)
            axis.set_xscale("function", functions=(np.sqrt, np.square))
            axis.set_xticks(TICKS, [f"{tick}" for tick in TICKS])
            axis.set_xlim(0, 100)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel(measure)
            if row == len(functions) - 1:
                axis.set_xlabel(f"{units} {verb}, % (square-root axis)")
    handles, names = grid[0][0].get_legend_handles_labels()
    if damaged:
        handles.append(_cross())
        names.append("damage")
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def plot_distribution(
    selections: Mapping[str, Selection],
    *,
    labels: Mapping[str, str] | None = None,
    units: str = "units",
) -> Figure:
    """Draw where selected units lie: a column a layer, a line a unit, and each layer's share.

    Args:
        selections: name to units of one model.
        labels: what they are called in the figure; their names by default.
        units: what a unit is called.

    Raises:
        ParamattrError: if matplotlib is not installed, or there is no selection.
        UnitError: if a selection is empty.

    Source: Xie et al. 2021, Fig. 4.
    """
    if not selections:
        raise ParamattrError("there is no selection to draw: give at least one")
    labels = dict(labels or {})
    layers = list(next(iter(selections.values())).by_layer())
    figure = empty_figure((max(6.0, 0.28 * len(layers) + 2), 2.1 * len(selections) + 3.4))
    axes = figure.subplots(
        len(selections) + 1, 1, sharex=True, height_ratios=[2] * len(selections) + [2.2]
    )
    shares = axes[-1]
    width = 0.8 / len(selections)
    for number, (name, selection) in enumerate(selections.items()):
        colour, label = COLOURS[number % len(COLOURS)], labels.get(name, name)
        axis = axes[number]
        for column, own in enumerate(selection.index.layers().values()):
            found = selection.chosen[own].nonzero().flatten() / max(len(own) - 1, 1)
            axis.hlines(found, column - 0.42, column + 0.42, color=colour, linewidth=0.4, alpha=0.7)
        axis.set_ylim(1.01, -0.01)
        axis.set_yticks([0, 1], ["first", "last"])
        axis.set_title(
            f"{label}: {len(selection)} {units}, centre of depth {selection.depth():.2f}",
            fontsize=9,
        )
        axis.set_facecolor("#f4f4f4")
        counts = list(selection.by_layer().values())
        places = np.arange(len(layers)) + (number - (len(selections) - 1) / 2) * width
        share = [100 * count / len(selection) for count in counts]
        shares.bar(places, share, width, color=colour, label=label)
    shares.set_ylabel("share of them, %")
    shares.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
    shares.set_xlim(-0.7, len(layers) - 0.3)
    shares.legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw(
    axis: Axes, curve: Curve, comparison: Comparison, look: Look, label: str, *, main: bool
) -> None:
    percents = [100 * fraction for fraction in curve.fractions]
    axis.plot(
        percents,
        curve.mean(),
        look.style,
        color=look.colour,
        linewidth=2.4 if main else 1.1,
        label=label,
        zorder=3 if main else 2,
    )
    if main:
        found = [curve.at(fraction, comparison.bootstrap) for fraction in curve.fractions]
        low, high = [one.low for one in found], [one.high for one in found]
        axis.fill_between(percents, low, high, color=look.colour, alpha=0.15, linewidth=0)


def _cross_out(axis: Axes, curve: Curve, fractions: Sequence[float]) -> None:
    means = dict(zip(curve.fractions, curve.mean().tolist(), strict=True))
    values = [means[fraction] for fraction in fractions]
    if values:
        percents = [100 * fraction for fraction in fractions]
        axis.add_line(_cross(percents, values))


def _cross(x: Sequence[float] = (), y: Sequence[float] = ()) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D(x, y, linestyle="", marker="x", color="black", markersize=5, zorder=4)


def plot_profile(
    profiles: PathProfile | Mapping[str, PathProfile],
    *,
    measure: str = "objective",
) -> Figure:
    """Draw the objective along the path, and the straight line that a barrier rises above.

    Args:
        profiles: of `FAIG.path_profile`; or of several conditions, by their names.
        measure: what the vertical axis is called.

    Raises:
        ParamattrError: if matplotlib is not installed, or there is no profile.
    """
    named = {"": profiles} if isinstance(profiles, PathProfile) else dict(profiles)
    if not named:
        raise ParamattrError("there is no profile to draw: give at least one")
    figure = empty_figure((6.4, 3.8))
    axis = figure.subplots()
    for number, (name, profile) in enumerate(named.items()):
        colour = COLOURS[number % len(COLOURS)]
        barrier = f"barrier {profile.barrier:.2g}"
        label = f"{name}: {barrier}" if name else barrier
        axis.plot(profile.alphas, profile.values, "o-", color=colour, markersize=3, label=label)
        ends = [float(profile.values[0]), float(profile.values[-1])]
        axis.plot([0, 1], ends, ":", color=colour, linewidth=1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["target", "0.25", "0.5", "0.75", "baseline"])
    axis.set_xlabel("place on the path")
    axis.set_ylabel(measure)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def plot_units(scores: Scores, *, count: int = 20, units: str = "units") -> Figure:
    """Draw the units of the highest scores, with their 95% intervals over samples.

    Args:
        scores: of the units.
        count: how many are drawn, at most.
        units: what a unit is called.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    order = scores.rank()[:count]
    places, values = range(len(order)), scores.values[order]
    figure = empty_figure((7.5, max(2.5, 0.24 * len(order) + 1.2)))
    axis = figure.subplots()
    ends = scores.intervals()[order].tolist()
    axis.hlines(places, *zip(*ends, strict=True), color=GREY, linewidth=1.2)
    axis.plot(values, places, "o", color=COLOURS[0], markersize=4)
    axis.set_yticks(places, [name_of(scores.index[n]) for n in order.tolist()], fontsize=7)
    axis.invert_yaxis()
    axis.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xlabel("score and 95% interval over samples")
    axis.set_title(f"first {len(order)} of {len(scores)} {units}", fontsize=9)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def plot_modulation(modulation: Modulation) -> Figure:
    """Draw a measure against the strength of some units, a line per condition.

    Raises:
        ParamattrError: if matplotlib is not installed.
    """
    figure = empty_figure((6.4, 3.8))
    axis = figure.subplots()
    for number, (name, values) in enumerate(modulation.values.items()):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(modulation.strengths, values, "o-", color=colour, markersize=3, label=name)
    axis.axvline(1, color=GREY, linewidth=1, linestyle=":")
    axis.set_xlabel("strength (0: baseline, 1: target)")
    axis.set_ylabel(modulation.measure)
    axis.set_title(modulation.title, fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def plot_changes(changes: Sequence[Change]) -> Figure:
    """Show samples before and after an edit: a row per sample, its images or texts side by side.

    Raises:
        ParamattrError: if matplotlib is not installed, or there is no sample.
    """
    if not changes:
        raise ParamattrError("there is no sample to draw: give at least one")
    widest = 3 if any(change.given for change in changes) else 2
    figure = empty_figure((3.2 * widest, 3.2 * len(changes)))
    grid = figure.subplots(len(changes), widest, squeeze=False)
    for row, change in zip(grid, changes, strict=True):
        states = [*([change.given] if widest == 3 else []), change.before, change.after]
        for axis, state in zip(row, states, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if state is not None:
                _show(axis, state)
        row[0].set_ylabel(change.title, fontsize=8)
    return figure


def _show(axis: Axes, state: State) -> None:
    if isinstance(state.content, bytes):
        from PIL import Image

        axis.imshow(np.asarray(Image.open(io.BytesIO(state.content))), interpolation="nearest")
    else:
        text = textwrap.fill(state.content, 40, replace_whitespace=False).replace("$", r"\$")
        axis.text(0.02, 0.95, text, va="top", fontsize=7, transform=axis.transAxes)
    axis.set_title(state.label, fontsize=8)
    axis.set_xlabel(state.note, fontsize=8)


def plot_trajectory(
    trajectories: Trajectory | Mapping[str, Trajectory], *, count: int = 30
) -> Figure:
    """Draw a heat map of units over the steps of a run: what each did for the objective, when.

    Red lowered the objective between a checkpoint and the next, blue raised it. The units are those
    that did most in all, in the order in which half of it was behind them.

    Args:
        trajectories: of `trajectory`; or of several conditions, by their names, side by side.
        count: most units that are drawn.

    Raises:
        ParamattrError: if matplotlib is not installed, there is no trajectory, or their steps
            or units differ.
    """
    single = isinstance(trajectories, Trajectory)
    named = {"": trajectories} if isinstance(trajectories, Trajectory) else dict(trajectories)
    if not named:
        raise ParamattrError("there is no trajectory to draw: give at least one")
    first = next(iter(named.values()))
    if any(own.steps != first.steps or own.index != first.index for own in named.values()):
        raise ParamattrError("the trajectories differ in steps or units: draw them by themselves")
    done = sum(own.signed.abs().sum(0) for own in named.values())
    shown = done.argsort(descending=True)[:count]  # type: ignore[union-attr]
    shown = shown[first.when()[shown].nan_to_num(nan=float("inf")).argsort(stable=True)]
    most = max(float(own.signed[:, shown].abs().max()) for own in named.values()) or 1.0
    figure = empty_figure((2.6 + 3.4 * len(named), 1.4 + 0.18 * len(shown)))
    axes = figure.subplots(1, len(named), sharey=True, squeeze=False)[0]
    for axis, (name, own) in zip(axes, named.items(), strict=True):
        image = axis.imshow(
            own.signed[:, shown].T, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most
        )
        axis.set_xticks(
            range(len(own.pieces)), [f"{step:g}" for step in own.steps[1:]], rotation=90
        )
        axis.set_xlabel("up to step")
        title = f"{own.difference:.2g} from the straight line"
        axis.set_title(title if single else f"{name}: {title}", fontsize=9)
        axis.tick_params(labelsize=7)
    axes[0].set_yticks(range(len(shown)), [name_of(first.index[int(n)]) for n in shown])
    figure.colorbar(image, ax=list(axes), label="objective lowered by", shrink=0.7)
    return figure

"""Panels: drawings of curves, units and networks."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from paramattr.errors import UnitError
from paramattr.faithfulness.comparison import CONTROL, Comparison
from paramattr.figures import COLOURS, GREY, Look, looks
from paramattr.report.blocks import Lane, Layer, Modulation, Network, Panel, Panels
from paramattr.scoring.profile import PathProfile
from paramattr.units.selection import Selection

DRAWN = 60
"""With more layers than these, those without a found unit are left out, and counted."""
WIDTH = 1000
"""Of a layer's strip, in SVG's units; ticks that fall on one place are drawn once."""
NARROWEST = 12.0


def network_of(
    selections: Mapping[str, Selection], *, units: str = "units", drawn: int = DRAWN
) -> Network:
    """Place the selected units in their layers.

    Args:
        selections: name to units, all of one index.
        units: what a unit is called.
        drawn: with more layers than these, layers without a selected unit are left out.

    Raises:
        UnitError: if there is no selection.
    """
    if not selections:
        raise UnitError("there is no selection to draw: give at least one")
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(selections)}
    index = next(iter(selections.values())).index
    layers = index.layers()
    most = max(map(len, layers.values()))
    rows = []
    for path, own in layers.items():
        lanes = []
        for name, selection in selections.items():
            places = selection.chosen[own].nonzero().flatten().tolist()
            spots = sorted({round(WIDTH * (place + 0.5) / len(own)) for place in places})
            ticks = "".join(f"M{spot} 0V10" for spot in spots)
            lanes.append(Lane(name, colours[name], len(places), ticks))
        width = max(NARROWEST, 100 * (len(own) / most) ** 0.5)
        rows.append(Layer(path, len(own), round(width, 1), lanes))
    kept = rows
    if len(rows) > drawn:
        kept = [row for row in rows if any(lane.found for lane in row.lanes)]
    sets = [(name, colours[name], len(selection)) for name, selection in selections.items()]
    return Network(kept, sets, units, len(rows) - len(kept))


Trace = dict[str, Any]
TICKS = (0, 1, 5, 10, 25, 50, 75, 100)
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
SQUARE = 3
"""With more functions than these, what is measured on another function is in the table alone."""


def plain(text: str) -> str:
    """Write a text for Plotly, which reads tags in labels.

    >>> plain("<b>")
    '&lt;b&gt;'
    """
    return html.escape(text, quote=False)


def known(value: float | None) -> float | None:
    """Write what is not finite as None, which JSON has."""
    return value if value is not None and math.isfinite(value) else None


def profile_panels(
    profiles: Mapping[str, PathProfile],
    *,
    measure: str = "objective",
    ends: tuple[str, str] = ("target", "baseline"),
) -> Panels:
    """Draw the objective along the path, and the straight line that a barrier rises above."""
    data, legend = [], []
    for number, (name, profile) in enumerate(profiles.items()):
        colour = COLOURS[number % len(COLOURS)]
        alphas, values = profile.alphas.tolist(), profile.values.tolist()
        hover = f"{plain(name)} at %{{x:.3g}}: %{{y:.4g}}<extra></extra>"
        line = _line(alphas, values, Look(colour, "-"), 2.2, name)
        data.append({**line, "mode": "lines+markers", "hovertemplate": hover})
        dotted = _line([0, 1], [values[0], values[-1]], Look(colour, ":"), 1.2, name)
        data.append({**dotted, "hoverinfo": "skip"})
        legend.append((name, colour, "-"))
    layout = _axes("place on the path", measure)
    layout["xaxis"] |= {
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
        "ticktext": [ends[0], "0.25", "0.5", "0.75", ends[1]],
        "range": [-0.06, 1.06],
    }
    barriers = "; ".join(f"{name}: barrier {p.barrier:.2g}" for name, p in profiles.items())
    alt = f"{measure} along the path. {barriers}. The table holds the numbers."
    note = "Dotted: the straight line between the ends, which a barrier rises above."
    panel = Panel(f"From the {ends[0]} to the {ends[1]}", alt, data, layout)
    return Panels([panel], legend if len(legend) > 1 else (), note)


def curve_panels(
    comparison: Comparison,
    *,
    labels: Mapping[str, str],
    measured_labels: Mapping[str, str],
    verb: str,
    measure: str,
    units: str,
) -> Panels:
    """Draw the curves of a comparison: a panel per function that loses its units and one measured.

    The horizontal axis is a square root. The first method and the control have their intervals.
    """
    drawn = looks(list(comparison.rankings))
    judged = comparison.damage() if comparison.truth is not None else []
    damaged = {
        (row["method"], row["function"], row["fraction"]): row["reason"]
        for row in judged
        if row["damage"]
    }
    functions = list(dict.fromkeys(function for _, function, _ in comparison.curves))
    panels = []
    for function in functions:
        others = [other for other in functions if other != function]
        for measured in [function, *(others if len(functions) <= SQUARE else [])]:
            data = []
            for method in comparison.rankings:
                key, label = (method, function, measured), labels.get(method, method)
                data += _curve(comparison, key, drawn[method], label, damaged)
            layout = _axes(f"{units} {verb}, % (square-root axis)", measure)
            layout["xaxis"] |= {
                "tickvals": [math.sqrt(tick) for tick in TICKS],
                "ticktext": [str(tick) for tick in TICKS],
                "range": [0, 10.1],
            }
            what = measured_labels.get(measured, measured)
            title = f"{labels.get(function, function)} {units} {verb}: {what}"
            alt = f"Curves of {len(drawn)} methods. The table below holds the numbers."
            panels.append(Panel(title, alt, data, layout))
    ordered = [(labels.get(method, method), *drawn[method]) for method in comparison.rankings]
    note = f"Bands: {100 * comparison.bootstrap.level:g}% intervals over samples."
    return Panels(panels, ordered, note + " Crosses: the edit is damage." * bool(damaged))


def loss_panels(
    names: Sequence[str], bars: Mapping[str, Sequence[float | None]], *, measure: str
) -> Panels:
    """Draw what is lost: a bar per name and kind; the kind `"random units"` is grey."""
    colours = iter(COLOURS)
    data, legend = [], []
    for kind, values in bars.items():
        colour = GREY if kind == "random units" else next(colours)
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "y": [plain(name) for name in names],
                "x": [known(value) for value in values],
                "marker": {"color": colour},
                "meta": kind,
                "hovertemplate": f"%{{y}}<br>{plain(kind)}: %{{x:.4g}}<extra></extra>",
            }
        )
        legend.append((kind, colour, "-"))
    layout = _axes(measure, "")
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "ticksuffix": " "}
    layout["xaxis"] |= {"nticks": 6, "tickangle": 0}
    layout["height"] = 120 + 26 * len(names) * len(data)
    alt = f"{measure}, by units masked. The table below holds the numbers."
    return Panels([Panel("With the units masked", alt, data, layout)], legend)


def modulation_panel(modulation: Modulation) -> Panel:
    """Draw the measure against the strength."""
    data = []
    for number, (name, values) in enumerate(modulation.values.items()):
        look = Look(COLOURS[number % len(COLOURS)], "-")
        line = _line(list(modulation.strengths), list(values), look, 2.2, name)
        hover = f"{plain(name)} at strength %{{x:.3g}}: %{{y:.4g}}<extra></extra>"
        data.append({**line, "mode": "lines+markers", "hovertemplate": hover})
    layout = _axes("strength (0: {1}, 1: {0})".format(*modulation.ends), modulation.measure)
    alt = f"{modulation.measure} against the strength. The slider reads it."
    return Panel(modulation.title, alt, data, layout)


def _curve(
    comparison: Comparison,
    key: tuple[str, str, str],
    look: Look,
    label: str,
    damaged: Mapping[tuple[str, str, float], str],
) -> list[Trace]:
    method, function, _ = key
    main = method == CONTROL or method == next(iter(comparison.rankings))
    curve = comparison.curves[key]
    found = [curve.at(fraction, comparison.bootstrap) for fraction in curve.fractions]
    places = [math.sqrt(100 * fraction) for fraction in curve.fractions]
    values = [one.value for one in found]
    line = _line(places, values, look, 2.6 if main else 1.7, label)
    line["text"] = [f"{100 * fraction:g}%" for fraction in curve.fractions]
    line["customdata"] = [[_short(one.low), _short(one.high)] for one in found]
    line["hovertemplate"] = (
        f"<b>{plain(label)}</b>, %{{text}}<br>%{{y:.4g}} "
        "(%{customdata[0]} to %{customdata[1]})<extra></extra>"
    )
    traces = [line]
    if main:
        band = _line(places + places[::-1], [o.high for o in found] + [o.low for o in found][::-1],
                     look, 0, label)  # fmt: skip
        fill = {"fill": "toself", "fillcolor": _faint(look.colour), "hoverinfo": "skip"}
        traces.insert(0, {**band, **fill})
    crossed = [n for n, f in enumerate(curve.fractions) if (method, function, f) in damaged]
    if crossed:
        crosses = _line([places[n] for n in crossed], [values[n] for n in crossed], look, 0, label)
        reasons = [damaged[method, function, curve.fractions[n]] for n in crossed]
        crosses |= {"mode": "markers", "marker": {"symbol": "x-thin-open", "size": 8}}
        crosses |= {"text": [plain(reason) for reason in reasons]}
        traces.append({**crosses, "hovertemplate": "damage: %{text}<extra></extra>"})
    return traces


def _line(x: list[float], y: list[float], look: Look, width: float, meta: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": [known(value) for value in y],
        "line": {"color": look.colour, "width": width, "dash": DASHES[look.style]},
        "marker": {"color": look.colour},
        "meta": meta,
    }


def _axes(across: str, up: str) -> dict[str, Any]:
    kept = {"automargin": True, "exponentformat": "power"}
    return {
        "xaxis": {"title": {"text": plain(across)}, **kept},
        "yaxis": {"title": {"text": plain(up), "standoff": 10}, **kept},
        "height": 320,
        "showlegend": False,
    }


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _short(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"

"""The network drawn as its layers, with the units that were found."""

from __future__ import annotations

from collections.abc import Mapping

from paramattr.errors import UnitError
from paramattr.figures import COLOURS
from paramattr.report.blocks import Lane, Layer, Network
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

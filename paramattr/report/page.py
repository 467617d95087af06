"""A page of sections, written as one file from which no request leaves."""

from __future__ import annotations

import base64
import difflib
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paramattr.errors import DataError, ParamattrError
from paramattr.figures import COLOURS
from paramattr.files.writing import write_whole
from paramattr.report.blocks import (
    Block,
    Cell,
    Change,
    Content,
    Modulation,
    Panel,
    Panels,
    Spread,
    Table,
)
from paramattr.report.panels import known, modulation_panel

IMAGES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
"""How an image file begins."""


@dataclass(frozen=True)
class Section:
    """A part of a page: its heading, a sentence below it, and what it holds."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        sections: its parts.
        subtitle: a line below the title.
    """

    title: str
    sections: Sequence[Section]
    subtitle: str = ""

    def html(self) -> str:
        """Write the page as HTML. Texts are escaped; what they hold is shown, never run.

        Raises:
            ParamattrError: if plotly or jinja2 is not installed.
            DataError: for an image of another kind than PNG, JPEG, GIF or WebP.
        """
        check_installed()
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from plotly.offline import get_plotlyjs

        environment = Environment(
            loader=PackageLoader("paramattr.report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "image": data_uri,
            "marked": marked,
            "cell": cell_text,
            "sorted_by": sort_key,
            "spreads": bars_of,
            "kinds": kinds_of,
            "panel": panel_json,
            "frames": frames_json,
            "start": start_of,
            "legend": legend_of,
        }
        environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
        environment.tests |= {"image": lambda content: isinstance(content, bytes)}
        environment.globals |= {"modulation_panel": modulation_panel}
        scripts = [_script(get_plotlyjs()), _script(_own("page.js"))]
        return environment.get_template("page.html").render(
            page=self,
            style=_own("page.css"),
            scripts=scripts,
            hashes=[_hash(script) for script in scripts],
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, whole or not at all.

        Raises:
            ParamattrError: as `html`, or if the file cannot be written.
        """
        write_whole(Path(path), self.html())
        return Path(path)


def check_installed() -> None:
    """Refuse a report where its packages are missing.

    Raises:
        ParamattrError: naming them, and how to get them.
    """
    missing = [name for name in ("plotly", "jinja2") if find_spec(name) is None]
    if missing:
        raise ParamattrError(
            f"a report needs plotly and jinja2, and {' and '.join(missing)} is not installed: "
            'pip install "paramattr[report]"'
        )


def data_uri(content: bytes) -> str:
    """Write an image file as a URI that holds it.

    >>> data_uri(b"GIF89a")
    'data:image/gif;base64,R0lGODlh'

    Raises:
        DataError: for the bytes of no known kind of image.
    """
    for start, kind in IMAGES.items():
        if content.startswith(start):
            return f"data:{kind};base64,{base64.b64encode(content).decode()}"
    raise DataError(
        f"an image begins with {content[:4]!r}: expected the bytes of a PNG, JPEG, GIF or WebP file"
    )


def marked(change: Change, side: str) -> list[tuple[str, bool]]:
    """Cut the text of one side into parts, each with whether the other side has it not.

    >>> from paramattr.report.blocks import State
    >>> change = Change("", State("", "a bad film"), State("", "a good film"))
    >>> marked(change, "after")
    [('a ', False), ('good', True), (' film', False)]
    """
    before: list[str] = re.findall(r"\s+|\S+", str(change.before.content))
    after: list[str] = re.findall(r"\s+|\S+", str(change.after.content))
    parts = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        words = after[other_start:other_end] if side == "after" else before[start:end]
        if words:
            parts.append(("".join(words), tag != "equal"))
    return parts


def cell_text(cell: Cell) -> str:
    """Write a cell.

    >>> cell_text(0.123456), cell_text(Spread(2.0, 1.0, 3.5)), cell_text(None)
    ('0.1235', '2 (1 to 3.5)', '–')
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, Spread):
        known = cell.low is not None and cell.high is not None
        known = known and not math.isnan(cell.low or 0.0)
        return f"{cell.value:.3g}" + (f" ({cell.low:.3g} to {cell.high:.3g})" if known else "")
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def kinds_of(table: Table) -> list[str]:
    """Say of each column whether it is `"text"` or `"number"`, which stands to the right."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.head))]
    return ["text" if all(isinstance(c, str) for c in own) else "number" for own in columns]


def sort_key(cell: Cell) -> str | float:
    """Give what a cell is sorted by and copied as: all digits of a number, no separators."""
    value = cell.value if isinstance(cell, Spread) else cell
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def bars_of(table: Table, column: int) -> list[dict[str, float | None]] | None:
    """Place the intervals of a column on one scale from 0 to 100; None if it holds none."""
    cells = [row[column] for row in table.rows]
    spreads = [cell for cell in cells if isinstance(cell, Spread)]
    if not spreads or len(spreads) < len(cells):
        return None
    numbers = [x for s in spreads for x in s if x is not None and math.isfinite(x)]
    low, high = min([0.0, *numbers]), max([0.0, *numbers])
    scale = 100 / (high - low) if high > low else 0.0

    def at(value: float | None) -> float | None:
        known = value is not None and math.isfinite(value)
        return round((float(value or 0) - low) * scale, 2) if known else None

    return [{"zero": at(0.0), **{k: at(v) for k, v in s._asdict().items()}} for s in spreads]


def panel_json(panel: Panel) -> dict[str, Any]:
    """Give what the script draws a figure from."""
    return {"data": panel.data, "layout": panel.layout}


def frames_json(modulation: Modulation) -> dict[str, Any]:
    """Give what the script shows at each place of a slider."""
    shown = {
        title: [
            {"content": _shown(state.content), "label": state.label, "note": state.note}
            for state in states
        ]
        for title, states in modulation.frames.items()
    }
    values = {name: [known(value) for value in own] for name, own in modulation.values.items()}
    return {"strengths": list(modulation.strengths), "values": values, "frames": shown}


def start_of(modulation: Modulation) -> int:
    """Say where a slider starts: at the strength nearest to the target's, 1."""
    strengths = modulation.strengths
    return min(range(len(strengths)), key=lambda place: abs(strengths[place] - 1))


def legend_of(modulation: Modulation) -> Panels:
    """Give the legend of a modulation's figure, which stands above it."""
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(modulation.values))]
    return Panels([], [(n, c, "-") for n, c in zip(modulation.values, colours, strict=True)])


def _shown(content: Content) -> str:
    return data_uri(content) if isinstance(content, bytes) else content


def _own(name: str) -> str:
    return (files("paramattr.report") / "templates" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    # Inside a script element nothing may look like its end.
    ended = re.sub(r"</(?=script)", r"<\\/", text.replace("\r\n", "\n"), flags=re.IGNORECASE)
    return "\n" + ended.strip() + "\n"


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""What a section of a report can hold. Each kind is drawn by the macro of its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from paramattr.errors import DataError

Content = bytes | str
"""The bytes of a PNG, JPEG, GIF or WebP file, or a text."""


class Spread(NamedTuple):
    """A number with its interval, which a table writes and draws; None where it is not known."""

    value: float
    low: float | None = None
    high: float | None = None


Cell = str | int | float | Spread | None


@dataclass(frozen=True)
class State:
    """What there is to see of one sample under one model.

    Attributes:
        label: what the model is called, such as `"tuned"`.
        content: an image file's bytes, or a text.
        note: a line below it, such as its loss.
    """

    label: str
    content: Content
    note: str = ""


@dataclass(frozen=True)
class Change:
    """One sample before and after an edit, with a slider between the two.

    Attributes:
        title: what the sample is called.
        before: of the model as it was.
        after: of the edited model.
        given: what the model was given, if that is to be shown too.
        changed: what changed, in a sentence.

    Raises:
        DataError: if one side is a text and the other an image.
    """

    title: str
    before: State
    after: State
    given: State | None = None
    changed: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.before.content, bytes) != isinstance(self.after.content, bytes):
            raise DataError(
                f"{self.title!r} is an image on one side and a text on the other: expected two of "
                "one kind"
            )


@dataclass(frozen=True)
class Modulation:
    """What a measure is as some units are blended, from the baseline's values to the target's.

    Attributes:
        title: which units.
        strengths: 0 puts the baseline's units in, 1 the target's; rising.
        values: name of a condition to the measure at each strength.
        measure: what was measured.
        frames: title of a sample to what there is to see of it at each strength.
        ends: what the models at strengths 1 and 0 are called.

    Raises:
        DataError: if a list has not one entry per strength.
    """

    kind: ClassVar[str] = "modulation"
    title: str
    strengths: Sequence[float]
    values: Mapping[str, Sequence[float]]
    measure: str = "measure"
    frames: Mapping[str, Sequence[State]] = field(default_factory=dict)
    ends: tuple[str, str] = ("target", "baseline")

    def __post_init__(self) -> None:
        lists: dict[str, Sequence[object]] = {**self.values, **self.frames}
        for name, own in lists.items():
            if len(own) != len(self.strengths) or len(own) < 2:
                raise DataError(
                    f"{name!r} of modulation {self.title!r} has {len(own)} entries, and there are "
                    f"{len(self.strengths)} strengths: expected one each, of at least 2"
                )
        if list(self.strengths) != sorted(set(self.strengths)):
            raise DataError(f"the strengths of {self.title!r} do not rise: {self.strengths}")


@dataclass(frozen=True)
class Changes:
    """Samples with their sliders."""

    kind: ClassVar[str] = "changes"
    changes: Sequence[Change]


@dataclass(frozen=True)
class Words:
    """Sentences, as a list."""

    kind: ClassVar[str] = "words"
    sentences: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table that sorts and copies as CSV.

    Attributes:
        caption: what the rows are.
        head: a title per column.
        rows: cells.
        note: what the columns mean.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """One figure of Plotly.

    Attributes:
        title: above it.
        alt: what it shows, for who does not see it.
        data: Plotly's traces. Those of one `meta` go on and off together.
        layout: Plotly's layout, without colours of text and lines, which the page's theme gives.
    """

    title: str
    alt: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True)
class Panels:
    """Figures that share one legend.

    Attributes:
        panels: the figures.
        legend: label, colour and style of line (as matplotlib writes it) per `meta` of the traces.
        note: below them.
    """

    kind: ClassVar[str] = "panels"
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str, str]] = ()
    note: str = ""


class Lane(NamedTuple):
    """The units of one layer that one selection holds: how many, and an SVG path of their ticks."""

    label: str
    colour: str
    found: int
    ticks: str


class Layer(NamedTuple):
    """One layer: its name, how many units it has, its width in percent, and its lanes."""

    name: str
    units: int
    width: float
    lanes: Sequence[Lane]


@dataclass(frozen=True)
class Network:
    """The network's layers from the input to the output, with the units that were found.

    Attributes:
        layers: those that are drawn.
        sets: label, colour and number of units of each selection.
        units: what a unit is called.
        left_out: how many layers hold none and are not drawn.
    """

    kind: ClassVar[str] = "network"
    layers: Sequence[Layer]
    sets: Sequence[tuple[str, str, int]]
    units: str
    left_out: int = 0


Block = Words | Table | Panels | Network | Changes | Modulation

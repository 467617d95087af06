"""What a report calls things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Wording:
    """What methods, functions, units and measures are called.

    Attributes:
        labels: of methods and functions; their names by default.
        measured: what functions are called where they are measured; as `labels` by default.
        verb: what happens to the units, such as `"masked"`.
        measure: what is measured as they go.
        units: what units are called.
        objective: what is measured along the path.
        ends: what the two models are called, from the start of the path to its end.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    verb: str = "exchanged"
    measure: str = "measure"
    units: str = "units"
    objective: str = "objective"
    ends: tuple[str, str] = ("target", "baseline")

    def label(self, name: str) -> str:
        """Say what a method or function is called."""
        return self.labels.get(name, name)

    def measures(self, name: str) -> str:
        """Say what a function is called where it is measured."""
        return self.measured.get(name, self.label(name))

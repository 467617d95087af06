"""The layers that hold selected entries, as adapters of PEFT count them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from paramattr.errors import ParamattrError, UnitError, warn
from paramattr.parameters import owners
from paramattr.surgery.edits import check_selection
from paramattr.units.selection import Selection


@dataclass(frozen=True)
class Layer:
    """A layer whose weight holds selected entries.

    Attributes:
        path: the layer's name in the model.
        module: the layer.
        mask: of its weight, True in the selected entries.
    """

    path: str
    module: nn.Module
    mask: Bool[Tensor, "..."]

    @property
    def selected(self) -> int:
        """How many entries are selected."""
        return int(self.mask.sum())

    @property
    def sides(self) -> tuple[int, int]:
        """How many rows and columns the weight has, as a matrix."""
        rows, *rest = self.mask.shape
        return rows, math.prod(rest)


def layers_of(
    model: nn.Module, selection: Selection, fits: Callable[[nn.Module], bool], what: str
) -> list[Layer]:
    """Find the layers that an adapter can be put on.

    Args:
        model: the model.
        selection: the units.
        fits: says whether an adapter knows a layer.
        what: the adapter's name, for messages.

    Raises:
        UnitError: if no such layer holds a selected entry, or the selection is of another model.

    Warns:
        UserWarning: of the selected entries that lie elsewhere, such as in biases.
    """
    check_selection(model, selection)
    found, elsewhere = list[Layer](), dict[str, int]()
    for name, (place, *_) in owners(model).items():
        mask = selection.mask(name) if name in selection.index.shapes else None
        if mask is None or not bool(mask.any()):
            continue
        if place.attribute == "weight" and fits(place.module):
            found.append(Layer(place.path, place.module, mask))
        else:
            elsewhere[name] = int(mask.sum())
    if not found:
        raise UnitError(
            f"no layer that {what} knows holds a selected entry: found "
            f"{', '.join(map(repr, list(elsewhere)[:3])) or 'buffers alone'}; select units that "
            "hold weights of linear layers, such as 'neuron' or 'attention_head'"
        )
    if elsewhere:
        inside, outside = sum(layer.selected for layer in found), sum(elsewhere.values())
        warn(
            f"{outside} of {inside + outside} selected entries lie in no layer that {what} knows, "
            f"such as {next(iter(elsewhere))!r}: they are left out"
        )
    return found


def peft() -> Any:
    """Import PEFT.

    Raises:
        ParamattrError: if it is not installed.
    """
    try:
        return __import__("peft")
    except ImportError:
        raise ParamattrError(
            'adapters need PEFT, which is not installed: pip install "paramattr[hf]"'
        ) from None

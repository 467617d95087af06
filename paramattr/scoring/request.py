"""A request for scores: one loader or several conditions, one reducer or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paramattr.errors import DataError, UnitError
from paramattr.integration.accumulation import Reduction
from paramattr.integration.batches import no_batch
from paramattr.integration.integrand import Integrand
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores

Loaders = Iterable[Any] | Mapping[str, Iterable[Any]]
"""Batches, or a mapping from the name of a condition to its batches."""
Conditions = Mapping[str, Iterable[Any]]
"""The batches of each condition by its name."""
One = str | Reducer
"""One reducer."""
Several = list[str] | list[str | Reducer] | tuple[str | Reducer, ...]
"""A list of reducers."""
Reducers = str | Reducer | Sequence[str | Reducer]
"""One reducer, or several."""


class Request:
    """The conditions and units of one call.

    Args:
        model: the model that holds the units.
        loader: batches, or a mapping of conditions to batches.
        reducer: a reducer, or a list of them.

    Attributes:
        loaders: condition to batches; without a mapping, one condition with an empty name.
        indexes: name of each reducer to its units.

    Raises:
        DataError: for a mapping that holds tensors, since it is a batch, not a set of conditions.
        UnitError: for an unknown reducer, or two reducers of the same name.
    """

    def __init__(self, model: nn.Module, loader: Loaders, reducer: Reducers) -> None:
        self.loaders = _conditions(loader)
        # A string is a sequence too.
        is_list = not isinstance(reducer, str) and isinstance(reducer, Sequence)
        reducers: Sequence[Any] = reducer if is_list else [reducer]  # type: ignore[assignment]
        if not reducers:
            raise UnitError("there is no reducer: expected at least one, such as 'kernel'")
        self._reduction: Reduction | None = None
        self.indexes: dict[str, UnitIndex] = {}
        for entry in reducers:
            name = entry if isinstance(entry, str) else getattr(entry, "__name__", repr(entry))
            if name in self.indexes:
                raise UnitError(
                    f"reducer {name!r} is given twice: expected reducers of different names"
                )
            self.indexes[name] = UnitIndex.of(model, entry)
        self._has_conditions, self._has_reducers = isinstance(loader, Mapping), is_list

    def reduction(self, integrand: Integrand) -> Reduction:
        """Give the sums over every set of units, where the attributions are; made once."""
        if self._reduction is None:
            self._reduction = integrand.objective.reduction(self.indexes, integrand.device)
        return self._reduction

    def answer(self, scores: Mapping[str, Mapping[str, Scores]]) -> Any:
        """Return scores in the shape of the request.

        Args:
            scores: condition, then reducer, to scores.

        Returns:
            Scores; or a dict by condition, by reducer, or by condition and then by reducer.
        """
        by_condition = {
            condition: dict(by_reducer) if self._has_reducers else next(iter(by_reducer.values()))
            for condition, by_reducer in scores.items()
        }
        return by_condition if self._has_conditions else next(iter(by_condition.values()))


def first_batch(loaders: Mapping[str, Iterable[Any]]) -> Any:
    """Draw the first batch of the first condition.

    Raises:
        DataError: for an empty loader, or one that can be read only once.
    """
    loader = next(iter(loaders.values()))
    # Asked for before it is drawn from: an iterator would lack its first batch afterwards.
    batches = iter(loader)
    if batches is loader:
        raise DataError(
            "the loader can be read only once, and its first batch is needed before the run: give "
            "a list or a DataLoader"
        )
    for batch in batches:
        return batch
    raise no_batch(loader)


def _conditions(loader: Loaders) -> dict[str, Iterable[Any]]:
    if not isinstance(loader, Mapping):
        return {"": loader}
    if not loader:
        raise DataError("the mapping of conditions is empty: expected at least one loader")
    for name, batches in loader.items():
        if not isinstance(name, str):
            raise DataError(f"condition {name!r} has no name: expected a string")
        # A mapping of tensors is what a tokenizer gives: one batch, and its keys are no conditions.
        if isinstance(batches, Tensor):
            raise DataError(
                f"entry {name!r} of the loader is a tensor: expected a mapping of conditions to "
                "loaders; if the mapping is a single batch, put it in a list, [batch]"
            )
    return dict(loader)

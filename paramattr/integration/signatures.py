"""What type checkers know of the methods whose result depends on what they are given.

One loader and one reducer give `Scores`; a mapping of conditions, or a list of reducers, a dict.
The decorators here change nothing when the code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from torch import Tensor

from paramattr.integration.request import Loaders, Reducers
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores

if TYPE_CHECKING:
    from paramattr.integration.batches import Inputs
    from paramattr.integration.integrand import Attributions

Conditions = Mapping[str, Iterable[Any]]
"""The batches of each condition by its name."""
One = str | Reducer
"""One reducer."""
Several = list[str] | list[str | Reducer] | tuple[str | Reducer, ...]
"""A list of reducers."""
ByReducer = dict[str, Scores]
ByCondition = dict[str, Scores]
ByBoth = dict[str, dict[str, Scores]]


class ScoreMethod(Protocol):
    """`score(loader, reducer=...)` of a method that holds its models."""

    @overload
    def __call__(self, loader: Conditions, *, reducer: One, **options: Any) -> ByCondition: ...
    @overload
    def __call__(self, loader: Conditions, *, reducer: Several, **options: Any) -> ByBoth: ...
    @overload
    def __call__(self, loader: Iterable[Any], *, reducer: One, **options: Any) -> Scores: ...
    @overload
    def __call__(self, loader: Iterable[Any], *, reducer: Several, **options: Any) -> ByReducer: ...
    @overload
    def __call__(self, loader: Loaders, *, reducer: Reducers, **options: Any) -> Any: ...


class ScoreFunction(Protocol):
    """A function `(model, baseline, loader, reducer=...)`, whose units are kernels by default."""

    @overload
    def __call__(
        self, model: Any, baseline: Any, loader: Conditions, *, reducer: One = ..., **options: Any
    ) -> ByCondition: ...
    @overload
    def __call__(
        self, model: Any, baseline: Any, loader: Conditions, *, reducer: Several, **options: Any
    ) -> ByBoth: ...
    @overload
    def __call__(
        self,
        model: Any,
        baseline: Any,
        loader: Iterable[Any],
        *,
        reducer: One = ...,
        **options: Any,
    ) -> Scores: ...
    @overload
    def __call__(
        self, model: Any, baseline: Any, loader: Iterable[Any], *, reducer: Several, **options: Any
    ) -> ByReducer: ...


class AttributeMethod(Protocol):
    """`attribute(inputs, targets)`, which gives the delta beside its result where it is asked."""

    @overload
    def __call__(
        self,
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = ...,
        method: Any = ...,
        internal_batch_size: int | None = None,
        return_convergence_delta: Literal[False] = False,
        *,
        per_sample: bool = False,
        show_progress: bool = False,
    ) -> Attributions: ...
    @overload
    def __call__(
        self,
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = ...,
        method: Any = ...,
        internal_batch_size: int | None = None,
        *,
        return_convergence_delta: Literal[True],
        per_sample: bool = False,
        show_progress: bool = False,
    ) -> tuple[Attributions, Tensor]: ...
    @overload
    def __call__(
        self,
        inputs: Inputs,
        targets: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = ...,
        method: Any = ...,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        per_sample: bool = False,
        show_progress: bool = False,
    ) -> Attributions | tuple[Attributions, Tensor]: ...


class _BoundScore(Protocol):
    def __get__(self, instance: Any, owner: Any) -> ScoreMethod: ...


class _BoundAttribute(Protocol):
    def __get__(self, instance: Any, owner: Any) -> AttributeMethod: ...


def score_method(function: Callable[..., Any]) -> _BoundScore:
    """Let type checkers read a method as `ScoreMethod`."""
    return function


def attribute_method(function: Callable[..., Any]) -> _BoundAttribute:
    """Let type checkers read a method as `AttributeMethod`."""
    return function


def score_function(function: Callable[..., Any]) -> ScoreFunction:
    """Let type checkers read a function as `ScoreFunction`."""
    return function

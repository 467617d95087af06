"""Paths through parameter space: the parameters at each `alpha`, and their derivative.

A path is anything with `evaluate(alpha)` and `derivative(alpha)`. More members are optional:

- `breakpoints`: increasing numbers from 0 to 1, between which the path is smooth; `(0.0, 1.0)` by
  default.
- `is_piecewise_linear`: whether the derivative is constant between breakpoints; False by default.
  If it is, gradients are multiplied by it once per piece, not once per node.
- `derivative_of(name, alpha, rows, out)`: some rows of one parameter's derivative, which may be
  written into `out`; `moving(alpha)`: the names whose derivative is not zero. They save memory.

`alpha = 0` is the target model and `alpha = 1` the baseline, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from paramattr.errors import ModelError, an
from paramattr.parameters import check_finite, named_parameters

Parameters = dict[str, Tensor]


@runtime_checkable
class Path(Protocol):
    """What every path offers."""

    def evaluate(self, alpha: float) -> Parameters:
        """Return the parameters at `alpha`."""
        ...

    def derivative(self, alpha: float) -> Parameters:
        """Return the derivative of the parameters with respect to `alpha`."""
        ...


def breakpoints(path: Path) -> tuple[float, ...]:
    """Return a path's breakpoints; by default its two ends.

    Raises:
        ModelError: if they do not increase from 0 to 1.
    """
    places = tuple(getattr(path, "breakpoints", (0.0, 1.0)))
    rising = all(start < end for start, end in pairwise(places))
    if len(places) < 2 or places[0] != 0 or places[-1] != 1 or not rising:
        raise ModelError(
            f"the path's breakpoints are {places}: expected increasing numbers from 0 to 1, the "
            "ends included, such as (0.0, 0.5, 1.0)"
        )
    return places


class FittedPath:
    """A path restricted to a model's parameters, in their precision and on their device.

    Args:
        path: may hold more names, such as other buffers and aliases of tied parameters.
        start: the model's parameters, and its buffers that move.
        rest: a line for the names that the path lacks.
        buffers: the names in `start` that are buffers.

    Attributes:
        start: as passed.
        buffers: as passed.
        given: the path, as passed.
        breakpoints: the path's breakpoints.
        is_piecewise_linear: whether the path's derivative is constant between breakpoints.
    """

    def __init__(
        self,
        path: Path,
        start: Parameters,
        rest: StraightLine | None = None,
        *,
        buffers: tuple[str, ...] = (),
    ) -> None:
        self.given, self.start, self._rest, self.buffers = path, start, rest, buffers
        self._speed: tuple[float, Parameters] | None = None
        self.breakpoints = breakpoints(path)
        self.is_piecewise_linear = bool(getattr(path, "is_piecewise_linear", False))

    def evaluate(self, alpha: float) -> Parameters:
        """Return the model's parameters at `alpha`."""
        rest = {} if self._rest is None else self._rest.evaluate(alpha)
        return self._fit({**self.given.evaluate(alpha), **rest})

    def fill(self, alpha: float, point: Parameters) -> None:
        """Write the model's parameters at `alpha` into a point's tensors, which may be wider."""
        for path in (self.given, self._rest):
            if isinstance(path, PiecewiseLinear | StraightLine):
                path.fill(alpha, point)
            elif path is not None:
                values = path.evaluate(alpha)
                for name in point.keys() & values.keys():
                    point[name].copy_(values[name].to(self.start[name]))

    def derivative(self, alpha: float) -> Parameters:
        """Return the derivative of the model's parameters at `alpha`."""
        rest = {} if self._rest is None else self._rest.derivative(alpha)
        return self._fit({**self.given.derivative(alpha), **rest})

    def derivative_of(
        self, name: str, alpha: float, rows: slice | Tensor, out: Tensor | None = None
    ) -> Tensor:
        """Return some rows of one parameter's derivative, without those of all the others.

        `out`, of these rows' shape, may be written on.
        """
        path = self.given if self._rest is None or not self._rest.holds(name) else self._rest
        of_one = getattr(path, "derivative_of", None)
        if of_one is not None:
            speed: Tensor = of_one(name, alpha, rows, out)
            return speed.to(self.start[name])
        if self._speed is None or self._speed[0] != alpha:
            self._speed = alpha, self.derivative(alpha)
        own = self._speed[1][name]
        return own[rows] if own.ndim else own

    def moving(self, alpha: float) -> list[str]:
        """List the parameters whose derivative at `alpha` is not zero."""
        moving: set[str] = set()
        for path in (self.given, self._rest):
            listed = getattr(path, "moving", None)
            if listed is not None:
                moving.update(listed(alpha))
            elif path is not None:
                speed = path.derivative(alpha)
                moving.update(name for name in self.start if name in speed and speed[name].any())
        return [name for name in self.start if name in moving]

    def _fit(self, point: Parameters) -> Parameters:
        return {name: point[name].to(value) for name, value in self.start.items()}


def check_ends(path: Path, target: Parameters, baseline: Parameters) -> None:
    """Reject a path that does not lead from the target to the baseline.

    Raises:
        ModelError: naming the first parameter that is missing, not finite, or different at an end.
    """
    for alpha, end, what in ((0.0, target, "the model"), (1.0, baseline, "the baseline")):
        point = path.evaluate(alpha)
        check_finite(point, f"the path at alpha={alpha:g}")
        for name, value in end.items():
            if name not in point or point[name].shape != value.shape:
                raise ModelError(
                    f"the path has no parameter {name!r} of shape {tuple(value.shape)}: expected "
                    "all of the model's parameters along the path"
                )
            reached = point[name].to(value)
            scale = torch.maximum(target[name].abs(), baseline[name].abs())
            kinds = (value.dtype, target[name].dtype, point[name].dtype)
            precision = max(torch.finfo(kind).eps for kind in kinds)
            if ((reached - value).abs() > 8 * precision * scale).any():
                raise ModelError(
                    f"the path at alpha={alpha:g} is not {what}: parameter {name!r} differs; a "
                    "path starts at the target (alpha=0) and ends at the baseline (alpha=1), so "
                    "reverse a list of checkpoints that is in training order"
                )


class PiecewiseLinear:
    """Straight pieces through a list of models, from the target to the baseline.

    With `K + 1` points, point `k` lies at `alpha = k / K`. At a point between two pieces, the
    derivative is that of the piece that starts there.

    Args:
        points: two or more models, or mappings of names to tensors, of one architecture.

    Raises:
        ModelError: for fewer than two points, or points that do not hold the same parameters.

    >>> import torch
    >>> path = PiecewiseLinear([{"w": torch.tensor(0.0)}, {"w": torch.tensor(1.0)},
    ...                         {"w": torch.tensor(4.0)}])
    >>> path.evaluate(0.75)["w"], path.derivative(0.75)["w"]
    (tensor(2.5000), tensor(6.))
    """

    is_piecewise_linear = True

    def __init__(self, points: Sequence[nn.Module | Mapping[str, Tensor]]) -> None:
        self.points = [_values(point) for point in points]
        if len(self.points) < 2:
            raise ModelError(
                f"a path needs at least two models, its ends: found {len(self.points)}; pass "
                "[target, ..., baseline]"
            )
        # A module distinguishes its parameters; a mapping may hold buffers too.
        pairs = zip(self.points, points, strict=True)
        named = next((p for p, model in pairs if isinstance(model, nn.Module)), self.points[0])
        for number, point in enumerate(self.points):
            _check_alike(named, point, number)
            self.points[number] = {name: point[name].to(value) for name, value in named.items()}

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """The positions of the points."""
        pieces = len(self.points) - 1
        return tuple(k / pieces for k in range(pieces + 1))

    def evaluate(self, alpha: float) -> Parameters:
        """Return the parameters at `alpha` in [0, 1]; at a point, bit for bit that point's."""
        piece, within = self._locate(alpha)
        start, end = self.points[piece], self.points[piece + 1]
        if not start:
            return {}
        ends = [end[name] for name in start]
        # One launch on a GPU: a launch per parameter would take longer than the arithmetic.
        values = torch._foreach_lerp(list(start.values()), ends, within)
        return dict(zip(start, values, strict=True))

    def fill(self, alpha: float, point: Parameters) -> None:
        """Write the parameters at `alpha` into a point's tensors, as far as it has them."""
        piece, within = self._locate(alpha)
        start, end = self.points[piece], self.points[piece + 1]
        for name in start.keys() & point.keys():
            into, one, other = point[name], start[name], end[name]
            if within in (0.0, 1.0):
                into.copy_(other if within else one)
            elif (into.dtype, into.device) == (one.dtype, one.device):
                torch.lerp(one, other, within, out=into)
            else:
                into.copy_(torch.lerp(one, other, within))

    def derivative(self, alpha: float) -> Parameters:
        """Return the derivative with respect to `alpha` on the piece that holds `alpha`."""
        return {name: self.derivative_of(name, alpha) for name in self.points[0]}

    def derivative_of(
        self,
        name: str,
        alpha: float,
        rows: slice | Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return one parameter's derivative on the piece that holds `alpha`, or some rows of it.

        It is written into `out`, of these rows' shape, where that has their precision.
        """
        piece, _ = self._locate(alpha)
        start, end = self.points[piece][name], self.points[piece + 1][name]
        if rows is not None and start.ndim:
            start, end = start[rows], end[rows]
        fits = out is not None and (out.dtype, out.device) == (start.dtype, start.device)
        speed = torch.sub(end, start, out=out if fits else None)
        pieces = len(self.points) - 1
        return speed if pieces == 1 else speed.mul_(pieces)

    def moving(self, alpha: float) -> list[str]:
        """List the parameters that differ between the ends of the piece that holds `alpha`."""
        piece, _ = self._locate(alpha)
        start, end = self.points[piece], self.points[piece + 1]
        return [name for name, value in start.items() if not torch.equal(value, end[name])]

    def holds(self, name: str) -> bool:
        """Say whether the path has a parameter."""
        return name in self.points[0]

    def _locate(self, alpha: float) -> tuple[int, float]:
        breakpoints = self.breakpoints
        pieces = len(breakpoints) - 1
        piece = pieces - 1
        while piece > 0 and alpha < breakpoints[piece]:
            piece -= 1
        start, end = breakpoints[piece], breakpoints[piece + 1]
        return piece, (alpha - start) / (end - start)  # exactly 0 and 1 at the points


class StraightLine:
    """The straight line γ(α) = target + α (baseline - target), Eq. 6.

    Args:
        target: the model at `alpha = 0`, or a mapping of names to tensors.
        baseline: the model at `alpha = 1`, or a mapping of names to tensors.

    Raises:
        ModelError: if the two do not hold the same parameters.

    >>> import torch
    >>> line = StraightLine({"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)})
    >>> line.evaluate(0.25)["w"], line.derivative(0.25)["w"]
    (tensor(1.5000), tensor(2.))
    """

    is_piecewise_linear = True

    def __init__(
        self,
        target: nn.Module | Mapping[str, Tensor],
        baseline: nn.Module | Mapping[str, Tensor],
    ) -> None:
        self.given = PiecewiseLinear([target, baseline])

    def evaluate(self, alpha: float) -> Parameters:
        """Return the parameters at `alpha` in [0, 1]; at the ends, bit for bit the models'."""
        return self.given.evaluate(alpha)

    def fill(self, alpha: float, point: Parameters) -> None:
        """Write the parameters at `alpha` into a point's tensors, as far as it has them."""
        self.given.fill(alpha, point)

    def derivative(self, alpha: float) -> Parameters:
        """Return the baseline minus the target, whatever `alpha`."""
        return self.given.derivative(alpha)

    def derivative_of(
        self,
        name: str,
        alpha: float,
        rows: slice | Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return the baseline minus the target for one parameter, or for some rows of it."""
        return self.given.derivative_of(name, alpha, rows, out)

    def moving(self, alpha: float) -> list[str]:
        """List the parameters that differ, whatever `alpha`."""
        return self.given.moving(alpha)

    def holds(self, name: str) -> bool:
        """Say whether the path has a parameter."""
        return self.given.holds(name)


def _values(point: nn.Module | Mapping[str, Tensor]) -> Parameters:
    if isinstance(point, nn.Module):
        return named_parameters(point)
    if not isinstance(point, Mapping):
        raise ModelError(
            f"a point of the path is {an(type(point))}: expected a torch.nn.Module or a "
            "mapping of parameter names to tensors"
        )
    return {name: value.detach() for name, value in point.items() if value.is_floating_point()}


def _check_alike(first: Parameters, other: Parameters, number: int) -> None:
    for name, value in first.items():
        if name not in other:
            raise ModelError(
                f"parameter {name!r} of shape {tuple(value.shape)} is missing in point {number} of "
                "the path: expected models of one architecture"
            )
        if other[name].shape != value.shape:
            raise ModelError(
                f"parameter {name!r} has shape {tuple(value.shape)} in the path's first model and "
                f"{tuple(other[name].shape)} in point {number}: expected models of one architecture"
            )

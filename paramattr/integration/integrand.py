"""The integrand: the objective along the path between two models, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import ModelError
from paramattr.files.reading import fingerprint
from paramattr.identity import likeness, stamped
from paramattr.integration.accumulation import Attributions, chunks
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import Gradients, ObjectiveOfParameters, Take
from paramattr.parameters import Baseline, align, moving_buffers, named_parameters
from paramattr.paths import FittedPath, Parameters, Path, StraightLine, check_ends
from paramattr.runtime.compute import Compute, in_parts, wide
from paramattr.runtime.ranks import Ranks, sketch


def path_between(
    model: nn.Module,
    baseline: Baseline,
    path: Path | None,
    compute: Compute,
    *,
    strict: bool = True,
    quiet: bool = True,
) -> FittedPath:
    """Make the path from the target to the baseline.

    Args:
        model: the target.
        baseline: the model it is compared with, or a mapping of names to tensors.
        path: a path between them; the straight line by default. Buffers that it lacks move in a
            straight line.
        compute: where to put the path's tensors; they are in float32 at least.
        strict: as in `FAIG`.
        quiet: whether to suppress the warning about what `strict=False` left out.

    Raises:
        ModelError: if the two models do not fit, are equal, or are not the path's ends.
    """
    target = named_parameters(model)
    other = align(model, baseline, strict=strict, quiet=quiet, widened=True)
    # Statistics of a norm move as parameters do, or the path would not end at the baseline.
    buffers = moving_buffers(model, baseline, strict=strict, widened=True)
    target |= {name: model.get_buffer(name).detach() for name in buffers}
    other |= buffers
    start, end = compute.placed(target), compute.placed(other)
    # Compared after the cast: two models may differ in what their precision cannot hold.
    if all(torch.equal(start[name], end[name]) for name in start):
        raise ModelError(
            "the baseline equals the model in every parameter: there is no change to "
            "attribute; pass the model from before the fine-tuning as the baseline"
        )
    if path is None:
        return FittedPath(StraightLine(start, end), start, buffers=tuple(buffers))
    held = path.evaluate(0.0)
    # A path of the user's may know parameters alone; what it lacks goes straight.
    rest = [name for name in buffers if name not in held]
    check_ends(
        path,
        {name: value for name, value in target.items() if name not in rest},
        {name: value for name, value in other.items() if name not in rest},
    )
    line = StraightLine(*({name: side[name] for name in rest} for side in (start, end)))
    return FittedPath(path, start, line if rest else None, buffers=tuple(buffers))


class Points:
    """The parameters at some points of a path.

    A point's tensors are valid until `at` is called with another `alpha`: one point's memory is
    written anew for all that have no place of their own. A point that the model has written on is
    interpolated again.

    Args:
        path: the path.
        dtype: precision of the points' floating-point tensors; the path's by default.
    """

    are_in_place = False

    def __init__(self, path: FittedPath, dtype: torch.dtype | None = None) -> None:
        self.path, self.dtype, self._room = path, dtype, 1
        self._kept: dict[float, _Point] = {}
        self._passing: _Point | None = None

    def keep(self, points: int) -> None:
        """Set how many points are held, the one that is written anew included."""
        self._room = points
        # The first points are those that come again first.
        for alpha in list(self._kept)[points - 1 :]:
            del self._kept[alpha]

    def at(self, alpha: float, *, keep: bool = False) -> Parameters:
        """Give the parameters at `alpha`: at a path's ends the models' own tensors, if they fit.

        Args:
            alpha: the place on the path.
            keep: whether the point comes again, and gets a place of its own while there is one.
        """
        # A point that comes again has a place of its own as long as there is room.
        point = self._kept.get(alpha)
        if point is None and keep and len(self._kept) < self._room - 1:
            point = self._kept[alpha] = _Point(self._empty())
        if point is None:
            if self._passing is None:
                self._passing = _Point(self._empty())
            point = self._passing
        if not point.is_at(alpha):
            # Written into memory that there is: the system zeroes new memory first.
            with torch.no_grad():
                self.path.fill(alpha, point.values)
            point.is_now_at(alpha)
        return dict(point.values)

    def written(self) -> list[str]:
        """List what the model has written on since the last point was filled."""
        return [] if self._passing is None else self._passing.written()

    def _empty(self) -> Parameters:
        return {
            name: torch.empty_like(value, dtype=self.dtype if value.is_floating_point() else None)
            for name, value in self.path.start.items()
        }


class PointsInPlace:
    """Points that the path writes into the model's own memory, one after the other: none is held.

    Args:
        path: the path.
    """

    are_in_place = True

    def __init__(self, path: FittedPath) -> None:
        self.path = path

    def keep(self, points: int) -> None:
        """Hold nothing, whatever is asked for."""

    def at(self, alpha: float, *, keep: bool = False) -> Parameters:
        """Write the parameters at `alpha`, and give them."""
        return self.path.evaluate(alpha)

    def written(self) -> list[str]:
        """List nothing: whoever holds the memory restores it."""
        return []


class _Point:
    """Tensors, and what they were last filled with."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values
        self._alpha: float | None = None
        self._versions: list[int] = []

    def is_at(self, alpha: float) -> bool:
        return self._alpha == alpha and self._versions == self._seen()

    def is_now_at(self, alpha: float) -> None:
        self._alpha, self._versions = alpha, self._seen()

    def written(self) -> list[str]:
        pairs = zip(self.values, self._versions, self._seen(), strict=True)
        return [name for name, before, now in pairs if before != now]

    def _seen(self) -> list[int]:
        return [value._version for value in self.values.values()]


class Watch:
    """A place at which a run's own gradients of the first sample give the slope, once.

    It watches nothing until `wait` is called.
    """

    def __init__(self) -> None:
        self._alpha: float | None = None
        self._missing, self._slope = set[str](), 0.0
        self._then: Callable[[float], None] | None = None

    def wait(self, alpha: float, names: Iterable[str], then: Callable[[float], None]) -> None:
        """Wait for the gradients at a node of the run.

        Args:
            alpha: the node.
            names: all that moves there. Partitions ask for some of them at a time.
            then: function of the slope, called as soon as all have been asked for.
        """
        self._alpha, self._missing, self._then = alpha, set(names), then

    def is_due(self, alpha: float, batch: Batch) -> bool:
        """Say whether these gradients are those that are waited for."""
        return alpha == self._alpha and batch.number(0) == 0

    def add(self, name: str, slope: float) -> None:
        """Take in one parameter's part of the slope."""
        if name in self._missing:
            self._slope += slope

    def was_asked(self, names: Iterable[str]) -> None:
        """Note the parameters that a pass was asked for; some may have had no gradient."""
        self._missing.difference_update(names)
        # Told once. The next samples' gradients at this node are theirs alone.
        if not self._missing:
            then = self._then
            self.rest()  # told once: the next samples' gradients at this node are theirs alone
            if then is not None:
                then(self._slope)

    def rest(self) -> None:
        """Wait no longer."""
        # Who is told holds the integrand, which holds this: left in place, the circle would keep
        # copies of both models until Python looks for circles, and large tensors do not make it.
        self._alpha = self._then = None


@dataclass(frozen=True)
class Integrand:
    """∂L(γ(α), x)/∂γ(α)_i · ∂γ(α)_i/∂α of Eq. 5, at any α and for any batch.

    Attributes:
        objective: the objective as a function of the parameters.
        path: the path from the target to the baseline.
        reported: the names whose attributions are kept.
        points: the parameters at points of the path, held where they come again.
        watch: what may wait for the slope at one place.
    """

    objective: ObjectiveOfParameters
    path: FittedPath
    reported: tuple[str, ...]
    points: Points | PointsInPlace = field(
        default=None,  # type: ignore[assignment]
        repr=False,
        compare=False,
    )
    watch: Watch = field(default_factory=Watch, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.points is None:
            points = Points(self.path, self.objective.model.given_dtype)
            object.__setattr__(self, "points", points)

    @property
    def device(self) -> torch.device:
        """The device of the path's parameters."""
        return next(iter(self.path.start.values())).device

    def replica(self) -> Integrand:
        """Return a copy for another thread.

        Raises:
            ModelError: as `FunctionalModel.replica`.
        """
        return self.other(self.objective.replica())

    def other(self, objective: ObjectiveOfParameters, path: FittedPath | None = None) -> Integrand:
        """Return an integrand of another objective, or along another path, with own points."""
        return Integrand(objective, self.path if path is None else path, self.reported)

    def referenced(self, batch: Batch, at_once: int) -> Batch:
        """Fill in a batch's targets if the objective compares with the target model's outputs."""
        return self.objective.referenced(lambda: self.points.at(0.0), batch, at_once)

    def values(self, alpha: float, batch: Batch, at_once: int) -> Float[Tensor, "b"]:
        """Evaluate the objective at one point of the path, at most `at_once` samples together.

        Returns:
            `(B,)`, in float64.
        """
        values = partial(self.objective.values, self.points.at(alpha))
        return torch.cat(
            list(in_parts(batch, at_once, values, self.objective.model.model))
        ).double()

    def moving(self, alpha: float) -> list[str]:
        """List the parameters that move at one point."""
        return self.path.moving(alpha)

    def gradients(
        self,
        alpha: float,
        batch: Batch,
        names: list[str],
        *,
        each: bool = False,
        take: Take | None = None,
    ) -> Gradients:
        """Differentiate the objective at one point, per sample or summed over the batch.

        Args:
            alpha: the place on the path.
            batch: samples.
            names: the parameters to differentiate with respect to.
            each: whether per sample.
            take: as in `ObjectiveOfParameters.gradient`; only for a sum over the batch.
        """
        point, watch = self.points.at(alpha, keep=True), self.watch
        if not watch.is_due(alpha, batch):
            if each:
                return self.objective.sample_gradients(point, batch, names)
            return self.objective.gradient(point, batch, names, take)

        # Looked at on its way: with `take` the gradient is gone afterwards.
        def also(name: str, gradient: Tensor) -> None:
            watch.add(name, self._along(name, alpha, gradient))
            if take is not None:
                take(name, gradient)

        if each:
            found = self.objective.sample_gradients(point, batch, names)
        else:
            found = self.objective.gradient(point, batch, names, None if take is None else also)
        for name, gradient in found.by_name.items():
            watch.add(name, self._along(name, alpha, gradient[0] if each else gradient))
        watch.was_asked(names)
        return found

    def slopes(self, alpha: float, batch: Batch) -> dict[str, float]:
        """Give the slope of the objective's sum along the path, as the gradients have it.

            ∂L(γ(α))/∂γ_i · ∂γ_i/∂α, summed over the entries of each parameter

        Gradients are multiplied as they come, so that they are never held together.

        Returns:
            Names to slopes. What no gradient reaches is not among them.
        """
        found: dict[str, float] = {}

        def take(name: str, gradient: Tensor) -> None:
            found[name] = found.get(name, 0.0) + self._along(name, alpha, gradient)

        point = self.points.at(alpha)
        self.objective.gradient(point, batch, self.moving(alpha), take)
        return self.objective.of_all_shards(found)

    def _along(self, name: str, alpha: float, gradient: Tensor) -> float:
        """Multiply a gradient by the path's speed, some rows after the other, and sum."""
        # A word that comes twice has two rows: they must be one before they are multiplied.
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            [rows] = gradient.indices()
            speed = self.path.derivative_of(name, alpha, rows)
            return float((gradient.values() * speed).sum(dtype=torch.float64))
        whole, total = gradient if gradient.ndim else gradient[None], 0.0
        # Some rows at a time: the whole product would be another copy of the parameter.
        for rows in chunks(whole):
            speed = self.path.derivative_of(name, alpha, rows)
            total += float((whole[rows] * speed).sum(dtype=torch.float64))
        return total

    def zeros(
        self, names: list[str], leading: tuple[int, ...] = (), *, of_gradients: bool = False
    ) -> Attributions:
        """Make zeros of the parameters' shapes, after `leading` dimensions, in their memory layout.

        Args:
            names: names of parameters.
            leading: sizes of the dimensions in front of the parameter's.
            of_gradients: whether to use the gradients' precision if it is wider.
        """
        zeros = {}
        for name, kind in self.kinds(names).items():
            like = self.path.start[name]
            shape, kind = (*leading, *like.shape), kind if of_gradients else wide(like.dtype)
            # The samples' dimension comes in front, so that the parameter's own layout cannot be
            # kept.
            if leading:
                zeros[name] = torch.zeros(shape, dtype=kind, device=like.device)
            else:
                zeros[name] = torch.zeros_like(like, dtype=kind)
        return zeros

    def kinds(self, names: Iterable[str]) -> dict[str, torch.dtype]:
        """Give the precision of each parameter's gradients."""
        own, given = self.path.start, self.objective.model.given_dtype
        wider = {name: wide(own[name].dtype) for name in names}
        return {n: t if given is None else torch.promote_types(t, given) for n, t in wider.items()}

    def compare(self, ranks: Ranks, *settings: Any) -> None:
        """Compare with other ranks what is integrated, and how.

        Args:
            ranks: the processes that share the samples.
            settings: what else must be the same.

        Raises:
            RankError: naming what differs.
        """
        if ranks.processes == 1:
            return
        if not ranks.are_in_step:  # shards differ, as they must
            ranks.compare("the models", sketch(*map(self.path.evaluate, (0.0, 1.0))))
        ranks.compare("the objective", likeness(self.objective.objective))
        if not self.path.is_piecewise_linear:
            ranks.compare("the path", likeness(self.path.given))
        dtype = self.objective.model.compute.dtype
        ranks.compare("the settings", likeness([self.reported, dtype, *settings]))

    def settings(self) -> dict[str, Any]:
        """Describe the integrand, to tell runs apart."""
        # Between two breakpoints a curve may be any: one point inside tells most of them apart.
        places = self.path.breakpoints
        inside = [start + 0.38 * (end - start) for start, end in pairwise(places)]  # for curves
        points = (self.path.evaluate(alpha) for alpha in (*places, *inside))  # one at a time
        model = self.objective.model
        buffers: Iterator[dict[str, Tensor]] = iter([dict(model.model.named_buffers())])
        return {
            "method": "parameter path",
            "path": fingerprint(chain(points, buffers)),
            **stamped("objective", self.objective.objective),
            # Of a curve a few points are no identity.
            **({} if self.path.is_piecewise_linear else stamped("path's curve", self.path.given)),
            "dtype": str(model.compute.dtype),
            "parameters": list(self.reported),
        }

"""Whether the gradient says what the objective does: a look at one place of the path.

Along the path the objective is a function of one number, and its slope is gradient times speed.
Where `no_grad`, `detach`, `.data` or a rounding cuts the gradient, the slope is another than the
quotient of differences, and what is attributed is wrong however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from paramattr.errors import ModelError, warn
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integral import place, total_over
from paramattr.integration.integrand import Integrand
from paramattr.integration.model import FunctionalModel
from paramattr.parameters import check_whole
from paramattr.paths import FittedPath, StraightLine
from paramattr.quadrature import get_rule
from paramattr.runtime.compute import Compute, wide

STEP = 0.01
"""Half the width of the difference, as a share of a smooth piece of the path."""
STEPS = (0.003, 0.01, 0.03)
"""Those of the second look. A cut misses the same share at each; the error of a bend of ReLU grows
with the step, and that of rounding shrinks with it."""
NEAR = 1e-4
"""One more, where the look is in float64: a bend nearer than the others misses the same share at
each of them."""
TOLERANCE = 0.01
"""Share of the slope, or of the whole change, that may be missing without a word."""
STEADY = 3.0
"""Times that what is missing at one step may be of what is missing at another."""
NODES = (32, 96)
"""Nodes along the whole path, where differences at several steps disagree: with a function of
steps, such as one behind a straight-through estimator, they do."""
JUMP = 0.05
"""Share of the whole change that may be missing there without a word."""
MOST = 64
"""Differences that may be taken to find out which modules cut."""


class Place(NamedTuple):
    """A place of the path, and the width of the smooth piece that it lies in."""

    alpha: float
    width: float


class Gap(NamedTuple):
    """What the gradient lacks at one place.

    Attributes:
        slope: gradient times speed.
        quotient: the objective's change per unit of the path.
        whole: the objective's change along the whole path.
    """

    slope: float
    quotient: float
    whole: float

    @property
    def missing(self) -> float:
        """What is missing, with its sign."""
        return self.quotient - self.slope

    @property
    def share(self) -> float:
        """Its share of the slope, or of the whole change where the slope is small."""
        scale = max(abs(self.quotient), abs(self.whole))
        return self.missing / scale if scale else 0.0


def look_for_cuts(
    integrand: Integrand,
    sample: Batch,
    ends: tuple[float, float] | None = None,
    *,
    taken: tuple[float, float] | None = None,
    warns: bool = True,
) -> None:
    """Compare gradient times speed with a central difference of the objective along the path.

    Where they differ, it looks again in float64, at two places and with several steps, before it
    speaks: the bends of ReLU and rounding within the model are no cuts.

    Args:
        integrand: the objective along the path.
        sample: one sample, with the targets that the objective compares with.
        ends: its objective at the path's start and end, where they are known.
        taken: a node of the run and the slope there by the run's own gradients, where it has them:
            the look is then two forward passes.
        warns: whether to speak. Of processes that hold one model's shards, one does.

    Raises:
        ModelError: if the model writes on its parameters while it runs.

    Warns:
        UserWarning: with the share that is missing, and with the modules where it is lost.
    """
    # In bfloat16 the difference of two objectives would be rounding alone.
    exact = exactly(integrand)
    second, first = _places(integrand.path)
    if taken is not None:
        first = node_inside(integrand.path, [taken[0]]) or first
    if ends is None or exact is not integrand:
        ends = (float(exact.values(0.0, sample, 1)), float(exact.values(1.0, sample, 1)))
    whole = ends[1] - ends[0]
    slope = sum(exact.slopes(first.alpha, sample).values()) if taken is None else taken[1]
    gap = Gap(slope, _quotient(exact, sample, first, STEP), whole)
    _check_unwritten(exact)
    # Nearly every model ends here, after two forward passes.
    if abs(gap.share) <= TOLERANCE:
        return
    looks = [_closer(exact, sample, place, whole) for place in (first, second)]
    if all(_is_cut(gaps) for gaps in looks):
        gap = looks[0][STEPS.index(STEP)]
        if warns:
            warn(
                _said(
                    f"at {first.alpha:.2g} of the path",
                    gap,
                    list(_culprits(exact, sample, first, gap)),
                )
            )
    # Differences that agree at no step come of jumps: then only the whole path can tell.
    elif not any(_is_small(gaps) for gaps in looks):
        # Twice as far as two rules differ: what the nodes miss is not a cut.
        few, many = (_all_along(exact, sample, whole, nodes) for nodes in NODES)
        if abs(many.share) > max(JUMP, 2 * abs(many.share - few.share)) and warns:
            warn(_said("over the whole path", many, []))


def _check_unwritten(integrand: Integrand) -> None:
    written = integrand.points.written()
    if written:
        raise ModelError(
            f"the model writes on its parameter {written[0]!r} while it runs, so what it computes "
            "is not a function of the parameters that it was given: expected a model that only "
            "reads them; compute the changed value in forward and leave the parameter as it is, "
            "as torch.nn.utils.parametrize does"
        )


def exactly(integrand: Integrand) -> Integrand:
    """Give an integrand that computes in the path's own precision, if this one is narrower."""
    narrow = integrand.objective
    dtype, own = narrow.model.compute.dtype, precision_of(integrand)
    if dtype is None or dtype.itemsize >= own.itemsize:
        return integrand
    return _in(integrand, own, integrand.path)


def precision_of(integrand: Integrand) -> torch.dtype:
    """Give the widest precision of the path, float32 at least."""
    values = integrand.path.start.values()
    return max((wide(value.dtype) for value in values), key=lambda dtype: dtype.itemsize)


def _in(integrand: Integrand, dtype: torch.dtype, path: FittedPath) -> Integrand:
    old = integrand.objective
    model = FunctionalModel(old.model.model, Compute(dtype=dtype), moving=old.model.moving)
    return integrand.other(ObjectiveOfParameters(model, old.objective), path)


def _places(path: FittedPath) -> tuple[Place, Place]:
    """Choose two places inside the piece that holds the middle, away from its ends."""
    ends = path.breakpoints
    piece = (len(ends) - 1) // 2
    start, width = ends[piece], ends[piece + 1] - ends[piece]
    return Place(start + 0.5 * width, width), Place(start + 0.7 * width, width)


def node_inside(path: FittedPath, alphas: Iterable[float]) -> Place | None:
    """Choose a place past the middle, around which a difference lies in one smooth piece.

    At the target, which was trained, slopes are small, and a cut hardly shows. A straight piece
    goes on beyond the path's ends, which rules of one node may stand on.
    """
    beyond = 1.0 if path.is_piecewise_linear else 0.0
    for alpha in sorted(alphas, key=lambda alpha: abs(alpha - 0.7)):
        for start, end in pairwise(path.breakpoints):
            reach = STEP * (end - start)
            low = start - beyond if start == 0 else start
            high = end + beyond if end == 1 else end
            if low + reach <= alpha <= high - reach and start <= alpha <= end:
                return Place(alpha, end - start)
    return None


def _quotient(integrand: Integrand, sample: Batch, there: Place, step: float) -> float:
    reach = step * there.width
    up, down = (float(integrand.values(there.alpha + sign * reach, sample, 1)) for sign in (1, -1))
    return (up - down) / (2 * reach)


def _closer(integrand: Integrand, sample: Batch, there: Place, whole: float) -> list[Gap]:
    """Look again with several steps, in float64 where the model can."""
    try:
        line, here = _tangent(integrand, there)
        return _gaps(line, sample, here, whole, (*STEPS, NEAR))
    except Exception:  # operations without float64 fail in many ways, shards cannot be cast
        return _gaps(integrand, sample, there, whole, STEPS)


def _gaps(
    integrand: Integrand, sample: Batch, there: Place, whole: float, steps: Sequence[float]
) -> list[Gap]:
    slope = sum(integrand.slopes(there.alpha, sample).values())
    return [Gap(slope, _quotient(integrand, sample, there, step), whole) for step in steps]


def _tangent(
    integrand: Integrand, there: Place, names: Sequence[str] | None = None
) -> tuple[Integrand, Place]:
    """Give the line through a place of the path, along its speed, in float64.

    Args:
        integrand: the objective along the path.
        there: place of the path.
        names: what moves; all by default.

    Raises:
        ModelError: for shards.
    """
    path = integrand.path
    check_whole(integrand.objective.model.model)
    # A curve is replaced by its tangent, on which any step stays a straight one.
    start, speed = path.evaluate(there.alpha), path.derivative(there.alpha)
    start = {name: value.double() for name, value in start.items()}
    moving = set(start if names is None else names)
    end = {n: v + speed[n].double() if n in moving else v for n, v in start.items()}
    line = FittedPath(StraightLine(start, end), start, buffers=path.buffers)
    return _in(integrand, torch.float64, line), Place(0.0, there.width)


def _is_cut(gaps: Sequence[Gap]) -> bool:
    shares = [gap.share for gap in gaps]
    # A cut misses the same share at every step; the error of a bend grows with it.
    least, most = min(shares, key=abs), max(shares, key=abs)
    return abs(least) > TOLERANCE and 0 < most / least < STEADY


def _culprits(integrand: Integrand, sample: Batch, there: Place, gap: Gap) -> Iterator[str]:
    """Find the parameters whose slope is not their share of the objective's, by halving."""
    try:
        slopes = _tangent(integrand, there)[0].slopes(0.0, sample)
    except Exception:  # as in `_closer`
        return
    left = MOST
    waiting = [list(integrand.moving(there.alpha))]
    while waiting and left > 0:
        names = waiting.pop()
        line, here = _tangent(integrand, there, names)
        left -= 1
        moved = _quotient(line, sample, here, STEP)
        # A tenth: several modules may share what is missing.
        if abs(moved - sum(slopes.get(name, 0.0) for name in names)) < abs(gap.missing) / 10:
            continue
        if len(names) == 1:
            yield names[0]
            continue
        middle = len(names) // 2
        waiting += [names[middle:], names[:middle]]


def _is_small(gaps: Sequence[Gap]) -> bool:
    return any(abs(gap.share) <= TOLERANCE for gap in gaps)


def _all_along(integrand: Integrand, sample: Batch, whole: float, nodes: int) -> Gap:
    """Integrate the slope over the whole path, by the middles of even pieces."""
    # Even middles: a smooth rule promises nothing on a function of steps.
    rule = get_rule("riemann_middle", nodes)
    pieces = pairwise(integrand.path.breakpoints)
    placed = (node for ends in pieces for node in place(rule.nodes, rule.weights, *ends))
    return Gap(total_over(integrand, placed, sample), whole, whole)


def _said(where_on_path: str, gap: Gap, names: Sequence[str]) -> str:
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    where = ""
    if modules:
        more = f" and {len(modules) - 4} more" if len(modules) > 4 else ""
        shown = ", ".join(map(repr, modules[:4]))
        where = f" It belongs to {shown}{more}."
    return (
        f"the gradients are incomplete: {where_on_path} the first sample's objective changes by "
        f"{gap.quotient:.4g} per unit of the path, and the gradients say "
        f"{gap.slope:.4g}, so {abs(gap.share):.0%} is missing.{where} Do not trust these "
        "attributions: no_grad(), detach(), .data, a rounding, or an operation without a true "
        "derivative cuts the gradient between the parameters and the objective (DoRA detaches a "
        "norm); let the gradient through, or merge such layers first"
    )

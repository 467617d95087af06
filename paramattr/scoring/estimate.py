"""An estimate of the memory that scoring takes, from the tensors' sizes and one measured sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from paramattr.integration.accumulation import Reduction
from paramattr.integration.batches import Batch, tensors_in
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integral import Integral
from paramattr.integration.integrals.fixed import groups
from paramattr.parameters import Baseline, state_of
from paramattr.runtime.compute import Compute
from paramattr.runtime.memory import available, distinct_bytes, peak_of_tensors, shown
from paramattr.units.index import UnitIndex

VECTORS = 13
"""Numbers per unit, in float64: four sums, a sample's two, the four of its scores, and three that
are on their way."""
PARTITIONS = (2, 4, 8, 16, 32, 64)
"""Numbers of partitions that are tried where the memory is too small."""


@dataclass(frozen=True)
class Estimate:
    """What a call of `FAIG.score` is expected to take, in bytes.

    Attributes:
        parameters: the target's.
        baseline: the baseline's.
        path: copies of both that the path makes: in float32, or on another device.
        point: the parameters at one place of the path.
        gradients: of the samples that are differentiated together, in one partition.
        sums: of these gradients over the nodes.
        activations: what a forward pass of these samples keeps for the backward pass.
        units: the units' labels and sums.
        extra: the most that comes on top of what is held before the call.
        peak: the most in all: what this process (on a GPU, its tensors) holds, and `extra`.
        available: what the machine or GPU still has; None where the system does not say.
        advice: what would make it fit; empty where it does.
    """

    parameters: int
    baseline: int
    path: int
    point: int
    gradients: int
    sums: int
    activations: int
    units: int
    extra: int
    peak: int
    available: int | None
    advice: str = ""

    @property
    def fits(self) -> bool:
        """Say whether there is enough memory, as far as it is known."""
        return self.available is None or self.extra <= self.available

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        return {**vars(self), "fits": self.fits}

    def lines(self) -> list[str]:
        """Say what the gradients take, of what there is, and what would make them fit."""
        there = "" if self.available is None else f", of {shown(self.available)} available"
        needed = (
            f"Memory: about {shown(self.extra)} more than now{there}: gradients "
            f"{shown(self.gradients)}, their sums {shown(self.sums)}, the models on the path "
            f"{shown(self.path + self.point)}, one sample's activations {shown(self.activations)}."
        )
        return [needed] if self.fits else [needed, f"It does not fit: {self.advice}."]

    def __repr__(self) -> str:
        """Say what is needed, of what, and whether it fits."""
        parts = ("parameters", "baseline", "path", "point", "gradients", "sums", "activations")
        listed = ", ".join(f"{name} {shown(getattr(self, name))}" for name in parts)
        there = "unknown" if self.available is None else shown(self.available)
        verdict = "fits" if self.fits else f"does not fit: {self.advice}"
        return (
            f"Estimate(peak {shown(self.peak)}, {shown(self.extra)} more than now, {there} "
            f"available, {verdict}; {listed})"
        )


@dataclass(frozen=True)
class _Sizes:
    """What the phases of one call take, in bytes.

    Attributes:
        path: copies of the models.
        point: all parameters at one place of the path.
        gradients: of one sample, in one partition.
        reduction: temporaries of the reduction of one sample.
        units: labels and sums.
        activations: of the samples that are differentiated together.
        measured: the peak of their forward and backward pass.
        planned: points of the path, sums of gradients and gradients on their way, where these are
            reduced to units as they come; 0 where they are all held.
    """

    path: int
    point: int
    gradients: int
    reduction: int
    units: int
    activations: int
    measured: int
    planned: int = 0

    def extra(self, samples: int, workers: int) -> int:
        """Give the most that is taken at once, in any phase."""
        if self.planned:
            return self.path + self.units + workers * (self.planned + self.measured)
        sums = samples * self.gradients
        gradient = self.point + sums + self.measured
        product = sums + 2 * self.point  # the place on the path is held, beside the speed there
        reduction = self.point + sums + self.gradients + self.reduction
        return self.path + self.units + workers * max(gradient, product, reduction, self.path // 2)


def estimate_of(
    integral: Integral,
    baseline: Baseline,
    indexes: Mapping[str, UnitIndex],
    batch: Batch,
    *,
    held: int,
    partitions: int,
    compute: Compute,
    free: int | None = None,
) -> Estimate:
    """Estimate what scoring takes, by differentiating the first samples of one batch once.

    Args:
        integral: the integral over samples, by the rule that a call takes.
        baseline: the baseline model or mapping.
        indexes: name of a set of units to the units.
        batch: samples that are differentiated together, with their targets.
        held: bytes that this process held before the integral was made.
        partitions: number of passes, as in `FAIG.score`.
        compute: number of threads, each of which takes the memory of one, and their memory.
        free: bytes that there are; by default what the machine or GPU still has.
    """
    integrand, workers = integral.integrand, compute.workers
    device, units = integrand.device, list(indexes.values())
    free, direct = available(device) if free is None else free, None
    # The only way in which gradients need not all be held.
    if partitions == len(batch) == 1:
        share = compute.memory and compute.memory // workers
        direct = integral.by_units(Reduction(indexes, device), share)
    sizes = _sizes(integral, baseline, units, batch, partitions, come=direct is not None)
    if direct is not None:
        on_their_way = direct.held_bytes()
        sizes = replace(sizes, planned=direct.plan.held_bytes + on_their_way)
    extra = sizes.extra(len(batch), workers)
    model = integrand.objective.model.model
    found = Estimate(
        parameters=distinct_bytes([*model.parameters(), *model.buffers()]),
        baseline=distinct_bytes(state_of(baseline).values()),
        path=sizes.path,
        point=sizes.point,
        gradients=len(batch) * sizes.gradients if direct is None else on_their_way,
        sums=len(batch) * sizes.gradients,
        activations=sizes.activations,
        units=sizes.units,
        extra=extra,
        peak=held + extra,
        available=free,
    )
    if found.fits:
        return found
    return replace(found, advice=_advice(integral, sizes, found, len(batch), workers))


def _sizes(
    integral: Integral,
    baseline: Baseline,
    indexes: Sequence[UnitIndex],
    samples: Batch,
    partitions: int,
    *,
    come: bool,
) -> _Sizes:
    integrand = integral.integrand
    model, start = integrand.objective.model.model, integrand.path.start
    own = [*model.parameters(), *model.buffers()]
    measured = [_measured(piece, samples, come) for piece in integral.partitioned(partitions)]
    return _Sizes(
        # Both ends are copied alike: into float32 at least, and to where it computes.
        # Not counted where it computes in the models' own precision and place: ends are shared
        # then.
        path=2 * distinct_bytes(start.values(), besides=own),
        point=_bytes(start.values()),
        gradients=_largest(integral, partitions),
        reduction=_reduction(indexes),
        units=sum(_units(index) for index in indexes),
        activations=max(activations for activations, _ in measured),
        measured=max(peak for _, peak in measured),
    )


def _measured(piece: Integral, samples: Batch, come: bool) -> tuple[int, int]:
    """Measure what a forward pass keeps, and the peak of forward and backward pass.

    Args:
        piece: the integral of some parameters.
        samples: that are differentiated together.
        come: whether gradients are taken as they come, so that they are not all held.
    """
    integrand, start = piece.integrand, piece.integrand.path.start
    model, own = integrand.objective.model, integrand.objective.objective
    parts = (samples.inputs, samples.targets, samples.extra, samples.keywords)
    before = [*start.values(), *model.model.parameters(), *model.model.buffers()]
    forward, names = list[int](), _names(piece)
    with peak_of_tensors([*before, *tensors_in(parts)]) as follower:

        def watched(output: Any, targets: Any) -> Tensor:
            values = own(output, targets)
            forward.append(follower.live)
            return values

        # The user's objective sees the output last: what is live there is kept for the backward
        # pass.
        function = ObjectiveOfParameters(model, watched)
        if len(samples) > 1:
            function.sample_gradients(start, samples, names)
        else:
            function.gradient(start, samples, names, (lambda name, values: None) if come else None)
    return forward[0], follower.peak


def _advice(
    integral: Integral,
    sizes: _Sizes,
    found: Estimate,
    samples: int,
    workers: int,
) -> str:
    room = found.available or 0
    one = replace(
        sizes,
        activations=sizes.activations // samples,
        measured=sizes.activations // samples + sizes.gradients,
    )
    fewer = ["workers=1"] * (workers > 1) + ["internal_batch_size=1"] * (samples > 1)
    if fewer and one.extra(1, 1) <= room:
        return f"use {' and '.join(fewer)}"
    for partitions in PARTITIONS:
        # Without planning: gradients of a part are held whole.
        part = _largest(integral, partitions)
        cut = replace(one, gradients=part, measured=one.activations + part, planned=0)
        if cut.extra(1, 1) <= room:
            return f"use {' and '.join([*fewer, f'partitions={partitions}'])}"
    return (
        "no number of partitions makes it fit in one process: shard the models over several "
        "with torch.distributed.fsdp.fully_shard, or take a machine with more memory"
    )


def _names(piece: Integral) -> list[str]:
    moving = frozenset(piece.moving)
    return [name for name in piece.integrand.reported if name in moving]


def _largest(integral: Integral, partitions: int) -> int:
    """Give the bytes of one sample's gradients, in the largest partition."""
    start, kinds = integral.integrand.path.start, integral.integrand.kinds(_names(integral))
    sizes = {name: kind.itemsize * start[name].numel() for name, kind in kinds.items()}
    return max((sum(map(sizes.__getitem__, part)) for part in groups(sizes, partitions)), default=0)


def _reduction(indexes: Sequence[UnitIndex]) -> int:
    """Give the bytes that the largest tensor takes where it is summed into units, in float64."""
    # Labels, values and their product.
    labels = (label.numel() for index in indexes for label in index.labels.values())
    return 3 * 8 * max(labels, default=0)


def _units(index: UnitIndex) -> int:
    labels = index.labels.values()  # and as 64-bit numbers, which the sums go by
    return sum(own.nbytes + 8 * own.numel() for own in labels) + 8 * VECTORS * len(index)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

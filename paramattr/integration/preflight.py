"""What is looked at before the work: the first sample, at both ends of the path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from paramattr.errors import warn
from paramattr.integration.batches import Batch
from paramattr.integration.functional import FunctionalModel
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrand import Integrand
from paramattr.integration.path_integral import Values
from paramattr.integration.profile import PathProfile
from paramattr.integration.readings import check_readings
from paramattr.parameters import named_parameters
from paramattr.runtime.compute import Compute, wide
from paramattr.runtime.ranks import ALONE, Ranks

PRECISION_TOLERANCE = 0.05
"""The share of the objective's change that a `dtype` may be wrong by without a warning."""
ENOUGH = 8
"""Samples on which a barrier is believed: where fewer show one, the next batch is looked at too."""
GAP_TOLERANCE = 0.01
"""The share of the objective's change that the baseline model itself may differ from the path's
end by without a warning."""


class Preflight:
    """A look at the first batch of each condition, before the work and beside it.

    The objective is evaluated at both ends of the path: what is wrong with its shape or range
    shows, and the baseline model is compared with the path's end. Together with the values that the
    integration meets at its own nodes the ends are a profile of the path, whose barrier is told.

    Args:
        integrand: the objective along the path.
        baseline: the baseline model, which is compared with the path's end; None for no comparison.
        ranks: the processes that share the samples. Each looks at its own; the first one, which
            holds the first sample, compares and warns.
        between: more places to look at, where samples share no nodes.
    """

    def __init__(
        self,
        integrand: Integrand,
        baseline: nn.Module | None = None,
        ranks: Ranks = ALONE,
        between: tuple[float, ...] = (),
    ) -> None:
        self.integrand, self.baseline, self.ranks = integrand, baseline, ranks
        self._places = (0.0, 1.0, *between)
        self._seen: dict[str, dict[float, list[float]]] = {}
        self._samples: dict[str, int] = {}

    def __call__(self, batch: Batch, condition: str = "", at_once: int = 1) -> bool:
        """Look at a batch, if it is the first of its condition or the earlier ones leave a doubt.

        Returns:
            Whether it was looked at.

        Raises:
            ObjectiveError: if the objective is not one finite number per sample.
            DataError: as `check_readings`.

        Warns:
            UserWarning: as `compare`, on the first sample of all.
        """
        if condition in self._seen and not self._is_doubtful(condition):
            return False
        if condition not in self._seen:
            check_readings(self.integrand, batch)
        ends = [self.integrand.values(alpha, batch, at_once) for alpha in self._places]
        if not self._seen and self.ranks.is_first:
            self.compare(batch.part(0, 1), (float(ends[0][0]), float(ends[1][0])))
        seen = self._seen.setdefault(condition, {})
        for alpha, values in zip(self._places, ends, strict=True):
            seen.setdefault(alpha, []).extend(values.tolist())
        self._samples[condition] = self._samples.get(condition, 0) + len(batch)
        return True

    def compare(self, sample: Batch, ends: tuple[float, float] | None = None) -> None:
        """Compare the precision with float32, and the baseline model with the path's end.

        Args:
            sample: one sample.
            ends: its objective at the path's start and end, where they are known.

        Warns:
            UserWarning: as `compare_precision` and `compare_baseline`.
        """
        compare_precision(self.integrand, sample, ends)
        if self.baseline is not None:
            if ends is None:
                start, end = (float(self.integrand.values(alpha, sample, 1)) for alpha in (0, 1))
                ends = (start, end)
            compare_baseline(self.integrand, sample, self.baseline, ends)

    def _is_doubtful(self, condition: str) -> bool:
        """Say whether the few samples so far show a barrier that more of them may not."""
        if self._samples[condition] or len(self._seen[condition][0.0]) >= ENOUGH:
            return False
        profile = self.profiles()[condition]
        return profile.barrier > 1 and not profile.has_close_ends

    def watch(self, condition: str, values: Values) -> None:
        """Take in what the integration of one sample met, if its ends were looked at."""
        left = self._samples.get(condition, 0)
        if not left:
            return
        self._samples[condition] = left - values.of_samples.shape[1]
        seen = self._seen[condition]
        for alpha, of_samples in zip(values.alphas, values.of_samples.tolist(), strict=True):
            if alpha not in self._places:
                seen.setdefault(alpha, []).extend(of_samples)

    def profiles(self) -> dict[str, PathProfile]:
        """Give the profile of each condition: of its first samples, at the nodes and the ends."""
        found = {}
        for condition, seen in self._seen.items():
            samples = len(seen[0.0])
            # The adaptive rule takes places of its own for each sample: those that all share.
            places = sorted(alpha for alpha, values in seen.items() if len(values) == samples)
            means = torch.tensor([seen[a] for a in places], dtype=torch.float64).mean(1)
            found[condition] = PathProfile(
                torch.tensor(places, dtype=torch.float64), means, samples
            )
        return found

    def conclude(self) -> None:
        """Warn of a barrier, over what all ranks saw.

        Warns:
            UserWarning: once, of the highest barrier above 1 between ends that differ.
        """
        of_ranks, self._seen = self.ranks.gathered(self._seen), {}
        for of_rank in of_ranks:
            for condition, seen in of_rank.items():
                merged = self._seen.setdefault(condition, {})
                for alpha, values in seen.items():
                    merged.setdefault(alpha, []).extend(values)
        if not self.ranks.is_first:
            return
        barriers = {
            condition: profile
            for condition, profile in self.profiles().items()
            if profile.barrier > 1 and not profile.has_close_ends
        }
        if not barriers:
            return
        condition, profile = max(barriers.items(), key=lambda item: item[1].barrier)
        of = f" of {condition!r}" if condition else ""
        start, end = float(profile.values[0]), float(profile.values[-1])
        warn(
            f"barrier {profile.barrier:.3g}: on {profile.samples} samples the objective{of} is "
            f"{start:.4g} at the target, {end:.4g} at the baseline, and up to "
            f"{float(profile.values.max()):.4g} between them. The path leads through damaged "
            "models, so the scores may name what breaks the network, not what the fine-tuning "
            "taught it; take an earlier checkpoint as the baseline, coarser units, or another path "
            "(path=...)"
        )


def compare_precision(
    integrand: Integrand, sample: Batch, ends: tuple[float, float] | None = None
) -> None:
    """Compare the objective's change with the one in float32, where the `dtype` is narrower.

    Args:
        integrand: the objective along the path.
        sample: one sample, with the targets that the objective compares with.
        ends: its objective at the path's start and end, where they are known.

    Warns:
        UserWarning: with both changes, where they differ by more than `PRECISION_TOLERANCE`.
    """
    narrow = integrand.objective
    start = integrand.path.start.values()
    exact_dtype = max((wide(value.dtype) for value in start), key=lambda dtype: dtype.itemsize)
    dtype = narrow.model.compute.dtype
    if dtype is None or dtype.itemsize >= exact_dtype.itemsize:
        return
    model = FunctionalModel(
        narrow.model.model, Compute(dtype=exact_dtype), moving=narrow.model.moving
    )
    exact = replace(integrand, objective=ObjectiveOfParameters(model, narrow.objective))
    there = _change(exact, exact.referenced(sample, 1))
    here = _change(integrand, sample) if ends is None else ends[1] - ends[0]
    if abs(here - there) > PRECISION_TOLERANCE * abs(there):
        warn(
            f"in {dtype} the objective of the first sample changes by {here:.4g}, in "
            f"{exact_dtype} by {there:.4g}: more than {PRECISION_TOLERANCE:.0%} apart, so the "
            "attributions may be too; leave dtype out, or take a wider precision"
        )


def compare_baseline(
    integrand: Integrand, sample: Batch, baseline: nn.Module, ends: tuple[float, float]
) -> None:
    """Compare the baseline model's own objective with that at the path's end.

    They differ where something else than parameters and buffers does: code, a configuration, a
    buffer of whole numbers.

    Args:
        integrand: the objective along the path.
        sample: one sample.
        baseline: the baseline model.
        ends: the sample's objective at the path's start and end.

    Warns:
        UserWarning: with the gap and its share of the objective's change.
    """
    function = integrand.objective
    compute = replace(function.model.compute, compile=False)
    if compute.dtype is None:
        compute = replace(compute, dtype=_common_dtype(function.model.model, baseline))
    start, end = ends
    with _evaluating(baseline):
        own = ObjectiveOfParameters(FunctionalModel(baseline, compute), function.objective)
        values = replace(compute, device=integrand.device).placed(named_parameters(baseline))
        found = float(own.values(values, sample))
    gap, change = abs(found - end), abs(end - start)
    precision = max(torch.finfo(value.dtype).eps for value in integrand.path.start.values())
    if compute.is_mixed and compute.dtype is not None:
        precision = torch.finfo(compute.dtype).eps
    if gap > max(GAP_TOLERANCE * change, 64 * precision * max(abs(start), abs(end))):
        share = f"{gap / change:.0%} of the change" if change else "while the path changes nothing"
        warn(
            f"on the first sample the baseline model's own objective is {found:.4g}, and at the "
            f"path's end {end:.4g} ({share}): something else than the parameters and buffers that "
            "move differs between the models, and is not attributed; compare their code, "
            "configuration and integer buffers"
        )


def _common_dtype(*models: nn.Module) -> torch.dtype | None:
    """Give the widest precision, where the models' differ: the sample has the target's."""
    each = [{wide(value.dtype) for value in named_parameters(one).values()} for one in models]
    if all(dtypes == each[0] for dtypes in each):
        return None
    return max(set.union(*each), key=lambda dtype: dtype.itemsize)


def _change(integrand: Integrand, sample: Batch) -> float:
    start, end = (float(integrand.values(alpha, sample, 1)) for alpha in (0.0, 1.0))
    return end - start


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in training:
            module.training = mode

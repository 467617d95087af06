"""Checks on the first samples: at both ends of the path, before the work and beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import warn
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrand import Integrand
from paramattr.integration.model import FunctionalModel
from paramattr.objectives import is_loss
from paramattr.parameters import named_parameters, state_of
from paramattr.runtime.compute import wide
from paramattr.runtime.isolation import restoring
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.scoring.completeness import exactly, look_for_cuts, node_inside, precision_of
from paramattr.scoring.profile import PathProfile
from paramattr.scoring.readings import check_readings
from paramattr.scoring.state import LOOKED_AT, Missed, Sample
from paramattr.units.significance import quantile

PRECISION_TOLERANCE = 0.05
"""The share of the objective's change that a `dtype` may be wrong by without a warning."""
ENOUGH = 8
"""Samples on which a barrier is believed: where fewer show one, the next batch is looked at too."""
FEW = 4
"""Samples from which on it is said that the target is worse: the spread of two or three says little
of the error of their mean."""
GAP_TOLERANCE = 0.01
"""The share of the objective's change that the baseline model itself may differ from the path's
end by without a warning."""
NAMED = 3
"""Differences that a message names."""
_OF_A_COPY = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Entries of a configuration that say where a model comes from, not what it computes."""


class Preflight:
    """A look at the first batch of each condition, before the work and beside it.

    The objective is evaluated at both ends of the path: what is wrong with its shape or range
    shows, the baseline model is compared with the path's end, the gradients with the objective, and
    the attributions with its change. Together with the values that the integration meets at its own
    nodes the ends are a profile of the path, whose barrier is told.

    Args:
        integrand: the objective along the path.
        baseline: the baseline model, which is compared with the path's end; None for no comparison.
        ranks: the processes that share the samples. Each looks at its own; the first one, which
            holds the first sample, compares and warns.
        between: more places to look at, where samples share no nodes.
        looks_for_cuts: whether to compare the gradients with the objective, once for a pair.
    """

    def __init__(
        self,
        integrand: Integrand,
        baseline: nn.Module | None = None,
        ranks: Ranks = ALONE,
        between: tuple[float, ...] = (),
        *,
        looks_for_cuts: bool = False,
    ) -> None:
        self.integrand, self.baseline, self.ranks = integrand, baseline, ranks
        self.looks_for_cuts = looks_for_cuts
        self._places = (0.0, 1.0, *between)
        self._seen: dict[str, dict[float, list[float]]] = {}
        self._samples: dict[str, int] = {}
        self._changes: dict[str, dict[int, float]] = {}
        self._first: tuple[Batch, tuple[float, float] | None] | None = None
        self._rides = False

    def __call__(self, batch: Batch, condition: str = "", at_once: int = 1) -> bool:
        """Look at a batch, if it is the first of its condition or the earlier ones leave a doubt.

        Returns:
            Whether it was looked at.

        Raises:
            ObjectiveError: if the objective is not one finite number per sample.
            ModelError: if the model writes on its parameters while it runs.
            DataError: as `check_readings`.

        Warns:
            UserWarning: as `compare`, on the first sample of all.
        """
        if condition in self._seen and not self._is_doubtful(condition):
            return False
        if condition not in self._seen:
            check_readings(self.integrand, batch)
        # Whole batches, not one sample: a barrier of one sample is often chance.
        ends = [self.integrand.values(alpha, batch, at_once) for alpha in self._places]
        if not self._seen and self.ranks.rank == 0:  # all processes of a sharded model together
            self.compare(batch.part(0, 1), (float(ends[0][0]), float(ends[1][0])))
        seen = self._seen.setdefault(condition, {})
        for alpha, values in zip(self._places, ends, strict=True):
            seen.setdefault(alpha, []).extend(values.tolist())
        if batch.before == 0:  # the loader's first batch alone: a resumed run looks at others too
            changes = enumerate((ends[1] - ends[0]).tolist())
            numbered = {batch.number(place): change for place, change in changes}
            self._changes[condition] = {n: c for n, c in numbered.items() if n < LOOKED_AT}
        self._samples[condition] = self._samples.get(condition, 0) + len(batch)
        return True

    def compare(self, sample: Batch, ends: tuple[float, float] | None = None) -> None:
        """Compare the precision with float32, the gradients with the objective, and the baseline.

        Args:
            sample: one sample.
            ends: its objective at the path's start and end, where they are known.

        Warns:
            UserWarning: as `compare_precision`, `look_for_cuts` and `compare_baseline`.
        """
        # One rank speaks for all; others hold later samples.
        if self.ranks.is_first:
            compare_precision(self.integrand, sample, ends)
        if ends is None and (self.looks_for_cuts or self.baseline is not None):
            start, end = (float(self.integrand.values(alpha, sample, 1)) for alpha in (0.0, 1.0))
            ends = (start, end)
        if self.looks_for_cuts and not self._rides:
            look_for_cuts(self.integrand, sample, ends, warns=self.ranks.is_first)
        elif self.looks_for_cuts:
            self._first = sample, ends
        if self.baseline is not None and ends is not None and self.ranks.is_first:
            compare_baseline(self.integrand, sample, self.baseline, ends)

    def ride(self, nodes: Iterable[float]) -> None:
        """Let the run's own gradients of the first sample stand in for a pass of the look's own.

        Args:
            nodes: of the run, at each of which it takes the gradients of all that moves.
        """
        node = node_inside(self.integrand.path, nodes)
        # Gradients of half precision say nothing of one per cent.
        is_exact = exactly(self.integrand) is self.integrand
        if node is None or not (is_exact and self.looks_for_cuts and self.ranks.rank == 0):
            return

        def look(slope: float) -> None:
            if self._first is not None:
                look_for_cuts(self.integrand, *self._first, taken=(node.alpha, slope))

        self._rides = True
        self.integrand.watch.wait(node.alpha, self.integrand.moving(node.alpha), look)

    def _is_doubtful(self, condition: str) -> bool:
        """Say whether the few samples so far show a barrier that more of them may not."""
        # Samples that are still on their way may settle it.
        if self._samples[condition] or len(self._seen[condition][0.0]) >= ENOUGH:
            return False
        profile = self.profiles()[condition]
        return profile.barrier > 1 and not profile.has_close_ends

    def watch(self, condition: str, number: int, sample: Sample) -> Missed | None:
        """Take in what the integration of one sample met, if its ends were looked at.

        Returns:
            What the nodes missed of the objective's change; None where that is not known.
        """
        values, left = sample.values, self._samples.get(condition, 0)
        if values is not None and left:
            # Only of samples whose ends were looked at: a profile is a mean over the same ones
            # everywhere.
            self._samples[condition] = left - values.of_samples.shape[1]
            seen = self._seen[condition]
            for alpha, of_samples in zip(values.alphas, values.of_samples.tolist(), strict=True):
                if alpha not in self._places:
                    seen.setdefault(alpha, []).extend(of_samples)
        change = self._changes.get(condition, {}).get(number)
        if change is None or sample.total is None:
            return None
        return Missed(abs(sample.total - change), abs(change))

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
        """Warn of a barrier, and of a target worse than its baseline, over what all ranks saw.

        Warns:
            UserWarning: once, of the highest barrier, and of the models' order.
        """
        self.integrand.watch.rest()
        of_ranks, self._seen = self.ranks.gathered(self._seen), {}
        for of_rank in of_ranks:
            for condition, seen in of_rank.items():
                merged = self._seen.setdefault(condition, {})
                for alpha, values in seen.items():
                    merged.setdefault(alpha, []).extend(values)
        if not self.ranks.is_first:
            return
        found = [text for text in (self._barrier(), self._worse()) if text]
        if found:
            warn(" Besides, ".join(found))

    def _barrier(self) -> str:
        """Say which condition has the highest barrier above 1 between ends that differ."""
        barriers = {
            condition: profile
            for condition, profile in self.profiles().items()
            if profile.barrier > 1 and not profile.has_close_ends
        }
        # Told at the end: barriers are known when the nodes' values are.
        if not barriers:
            return ""
        condition, profile = max(barriers.items(), key=lambda item: item[1].barrier)
        start, end = float(profile.values[0]), float(profile.values[-1])
        return (
            f"barrier {profile.barrier:.3g}: on {profile.samples} samples the objective"
            f"{_of(condition)} is {start:.4g} at the target, {end:.4g} at the baseline, and up to "
            f"{float(profile.values.max()):.4g} between them. The path leads through damaged "
            "models, so the scores may name what breaks the network, not what the fine-tuning "
            "taught it; take an earlier checkpoint as the baseline, coarser units, or another path "
            "(path=...)."
        )

    def _worse(self) -> str:
        """Say if the target is worse than its baseline, and better under no condition."""
        # Higher may be better, and then nothing is swapped.
        if not is_loss(self.integrand.objective.objective):
            return ""
        worse = ""
        for condition, seen in self._seen.items():
            start, end = (torch.tensor(seen[a], dtype=torch.float64) for a in (0.0, 1.0))
            lost = start - end
            if len(lost) < FEW:
                continue
            # Of a few samples two standard errors say little: Student's t is larger there.
            errors = max(2.0, quantile(0.05, len(lost) - 1))
            reach = errors * float(lost.std() / math.sqrt(len(lost)))
            # Better somewhere: a trade between conditions is no mistake.
            if float(lost.mean()) < -reach:
                return ""
            if float(lost.mean()) > reach and not worse:
                worse = (
                    f"the target is worse than its baseline: on {len(lost)} samples"
                    f"{_of(condition)} the objective is {float(start.mean()):.4g} at the target "
                    f"and {float(end.mean()):.4g} at the baseline, and lower is better. Are they "
                    "swapped? FAIG(target, baseline) takes the fine-tuned model first. An "
                    "objective that is no loss says so: set is_loss = False on it."
                )
        return worse


def _of(condition: str) -> str:
    return f" of {condition!r}" if condition else ""


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
    exact_dtype, dtype = precision_of(integrand), narrow.model.compute.dtype
    if dtype is None or dtype.itemsize >= exact_dtype.itemsize:
        return
    exact = exactly(integrand)
    # The reference too: a target in half precision would hide the difference.
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
    buffer of whole numbers, or a parameter that keeps the target's values.

    Args:
        integrand: the objective along the path.
        sample: one sample.
        baseline: the baseline model.
        ends: the sample's objective at the path's start and end.

    Warns:
        UserWarning: with the gap, its share of the objective's change, and its cause.
    """
    function, model = integrand.objective, integrand.objective.model.model
    compute = replace(function.model.compute, compile=False)
    if compute.dtype is None:
        compute = replace(compute, dtype=_common_dtype(function.model.model, baseline))
    start, end = ends
    # The baseline may write on what it is given: it gets the path's end, and copies of the rest.
    # What keeps the target's values along the path was said; here it has them too.
    point, own = integrand.points.at(1.0), named_parameters(baseline)
    copies = {name: value.clone() for name, value in own.items() if name not in point}
    values = {name: point[name] for name in own if name in point}
    values |= replace(compute, device=integrand.device).placed(copies)
    state = state_of(baseline)
    kept = [
        n for n, v in named_parameters(model).items() if n not in state or state[n].shape != v.shape
    ]
    with restoring(baseline):
        baseline.eval()
        there = ObjectiveOfParameters(FunctionalModel(baseline, compute), function.objective)
        try:
            found = float(there.values(values, sample))
        except Exception:
            if not kept:
                raise
            return  # a baseline without the target's new head may not take these targets
    # Against the change, since that is what is attributed.
    gap, change = abs(found - end), abs(end - start)
    precision = max(torch.finfo(value.dtype).eps for value in integrand.path.start.values())
    if compute.is_mixed and compute.dtype is not None:
        precision = torch.finfo(compute.dtype).eps
    if gap > max(GAP_TOLERANCE * change, 64 * precision * max(abs(start), abs(end))):
        share = f"{gap / change:.0%} of the change" if change else "while the path changes nothing"
        cause = said(differences(model, baseline, integrand.path.start))
        warn(
            f"on the first sample the baseline model's own objective is {found:.4g}, and at the "
            f"path's end {end:.4g} ({share}): something that does not move along the path differs "
            f"between the models, and is not attributed: {cause}"
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


def differences(model: nn.Module, baseline: nn.Module, moving: Iterable[str]) -> list[str]:
    """List what differs and is not attributed: structure, whole numbers, settings, hooks.

    Args:
        model: the target.
        baseline: the model that it is compared with.
        moving: names of the parameters and buffers that move along the path.
    """
    found: list[str] = []
    there = dict(baseline.named_modules())
    for path, own in model.named_modules():
        where = f"layer {path!r}" if path else "the model"
        other = there.get(path)
        if other is None:
            found.append(f"{where} is missing in the baseline")
            continue
        # Attributes of different classes would all differ, and say nothing more.
        if type(own) is not type(other):
            kinds = type(own).__name__, type(other).__name__
            found.append(f"{where} is of class {kinds[0]} and {kinds[1]}")
            continue
        found += [f"{where} has {what}" for what in _settings(own, other)]
    found += [f"buffer {name!r} differs" for name in _buffers(model, baseline, set(moving))]
    return found


def said(found: list[str]) -> str:
    """Put differences in words, the first of them by name."""
    if not found:
        return "something beside parameters and buffers differs, such as the models' code"
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more


def _settings(own: nn.Module, other: nn.Module) -> Iterator[str]:
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        counts = len(getattr(own, hooks)), len(getattr(other, hooks))
        if counts[0] != counts[1]:
            yield f"{counts[0]} forward hooks and {counts[1]}"
    yield from _entries(_plain(vars(own)), _plain(vars(other)), "")
    yield from _entries(_config(own), _config(other), "config.")


def _entries(own: Mapping[str, Any], other: Mapping[str, Any], start: str) -> Iterator[str]:
    for name in own.keys() | other.keys():
        if own.get(name) != other.get(name):
            yield f"{start}{name} {own.get(name)!r} and {other.get(name)!r}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the public entries that can be compared and written."""
    return {
        name: value
        for name, value in sorted(values.items())
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _config(module: nn.Module) -> dict[str, Any]:
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    entries = to_dict() if callable(to_dict) else {}
    return {name: value for name, value in _plain(entries).items() if name not in _OF_A_COPY}


def _buffers(model: nn.Module, baseline: nn.Module, moving: set[str]) -> Iterator[str]:
    there = dict(baseline.named_buffers())
    for name, buffer in model.named_buffers():
        other = there.get(name)
        is_counter = name.endswith("num_batches_tracked")  # nothing reads it in evaluation mode
        if name in moving or is_counter or other is None or _are_equal(buffer, other):
            continue
        yield name


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other.to(one.device)).all())

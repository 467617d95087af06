"""The state of a run: what it added up so far, saved, resumed, and merged over ranks."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paramattr.cost import Spent
from paramattr.errors import CheckpointError
from paramattr.files.resume import Unfinished
from paramattr.integration.accumulation import Reduced
from paramattr.integration.batches import Batch
from paramattr.integration.integral import Integral, Values
from paramattr.runtime.ranks import Ranks
from paramattr.scoring.until import Settling, Until
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores
from paramattr.units.significance import Covariances, Paired

VERSION = 2
"""Version of progress files. Earlier ones knew objectives and batches by a part of their state."""
LOOKED_AT = 8
"""The most samples of a condition on which it is looked at what the nodes missed."""


class Sample(NamedTuple):
    """What one sample came to.

    Attributes:
        reduced: name of a set of units to its attributions there.
        values: the objective along the path, where the method follows one.
        spent: what its integration took, where that is not known beforehand.
        total: the sum of its attributions over all that moves; None where it is not known, or the
            method is not complete.
    """

    reduced: Mapping[str, Reduced]
    values: Values | None = None
    spent: Spent | None = None
    total: float | None = None


class Missed(NamedTuple):
    """What the nodes missed of samples whose objective at both ends is known.

    Attributes:
        missed: Σ_x |Σ_i A_i(x) - L(baseline, x) + L(target, x)|.
        change: Σ_x |L(baseline, x) - L(target, x)|.
    """

    missed: float
    change: float


def totalled(integral: Integral, samples: Iterator[Sample], batch: Batch) -> Iterator[Sample]:
    """Say of each sample what its attributions sum to, over all that moves.

    Where a part of that is not reported, the first samples' gradients are taken once more.

    Args:
        integral: over samples.
        samples: what came of them.
        batch: the samples.
    """
    for place, sample in enumerate(samples):
        total = sample.total
        # Every set of units sees all that is reported, so that the first one's total is the
        # sample's.
        if total is None and integral.reports_all:
            total = next(iter(sample.reduced.values())).total
        elif total is None and batch.number(place) < LOOKED_AT:
            total = integral.total(batch.part(place, 1))
        yield sample._replace(total=total)


class RunningSums:
    """The sums over the samples so far, of one set of units.

    Args:
        index: the units.
    """

    def __init__(self, index: UnitIndex) -> None:
        self.index, self.samples, self.rest = index, 0, 0.0
        # Python's floats: one number each, added once per sample.
        self.missed = self.change = 0.0
        self.magnitudes, self.squares, self.signed, self.signed_squares = (
            torch.zeros(len(index), dtype=torch.float64) for _ in range(4)
        )

    def add(self, sample: Reduced, missed: Missed | None = None) -> None:
        """Add one sample, and what its nodes missed, where that is known."""
        if missed is not None:
            self.missed += missed.missed
            self.change += missed.change
        self.magnitudes += sample.magnitudes
        # In float64: the variance is a small difference of two such sums.
        self.squares.addcmul_(sample.magnitudes, sample.magnitudes)
        self.signed += sample.signed
        self.signed_squares.addcmul_(sample.signed, sample.signed)
        self.rest += sample.rest
        self.samples += 1

    def scores(self, paired: Paired | None = None) -> Scores:
        """Give the means over the samples, and their standard errors.

            S_u = 1/n Σ_x m_u(x),    SE_u = sqrt( Σ_x (m_u(x) - S_u)² / (n (n - 1)) )

        with m_u(x) the summed magnitude in the unit, and so for its signed sum. The absolute value
        and the sum over the unit come before the mean: the two do not commute.

        Args:
            paired: what is known of them together with other conditions' scores.
        """
        # Divided only here, so that a resumed run adds to whole sums.
        n, mean, signed = self.samples, self.magnitudes / self.samples, self.signed / self.samples
        total = float(self.magnitudes.sum()) + self.rest
        return Scores(
            self.index,
            mean,
            signed=signed,
            standard_error=_error(n, mean, self.squares),
            signed_error=_error(n, signed, self.signed_squares),
            unassigned=self.rest / total if total else 0.0,
            samples=n,
            paired=paired,
            residual=self.missed / self.change if self.change else math.nan,
        )

    def state(self) -> dict[str, Tensor]:
        """Give what `resume` takes."""
        return {
            "magnitudes": self.magnitudes,
            "squares": self.squares,
            "signed": self.signed,
            "signed_squares": self.signed_squares,
            "rest": torch.tensor(self.rest, dtype=torch.float64),
            "residual": torch.tensor([self.missed, self.change], dtype=torch.float64),
            "samples": torch.tensor(self.samples),
        }

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        self.magnitudes, self.squares = state["magnitudes"], state["squares"]
        self.signed, self.signed_squares = state["signed"], state["signed_squares"]
        self.samples, self.rest = int(state["samples"]), float(state["rest"])
        self.missed, self.change = state["residual"].tolist()


def _error(samples: int, mean: Tensor, squares: Tensor) -> Tensor | None:
    """Give the standard error of a mean over samples; None of one sample."""
    if samples < 2:
        return None
    # Rounding may leave a constant unit a little below zero.
    spread = (squares - samples * mean.square()).clamp(min=0)
    return (spread / (samples * (samples - 1))).sqrt()


class CrossSums:
    """Σ_x m(x_c) m(x_d) for every two conditions c and d, over samples of one number.

    So for the magnitudes m, and for the signed sums.

    A sample waits until every condition has come to its number. Conditions that take turns keep
    few waiting; those that hold different numbers of samples are not paired.

    Args:
        conditions: their names.
        units: how many.
    """

    def __init__(self, conditions: Sequence[str], units: int) -> None:
        self.products = {
            pair: torch.zeros(2, units, dtype=torch.float64) for pair in combinations(conditions, 2)
        }
        self.waiting: dict[str, deque[tuple[Tensor, Tensor]]] = {
            name: deque() for name in conditions
        }
        # Turns False for good: pairs that were lost cannot be made up for.
        self.is_paired = len(conditions) > 1

    def add(self, condition: str, sample: Reduced, most: int) -> None:
        """Add one sample's magnitudes and signed sums.

        Args:
            condition: of the sample.
            sample: what each unit gets.
            most: how many samples may wait, where conditions take turns. More means that another
                condition has ended: the pairing is given up.
        """
        if not self.is_paired:
            return
        self.waiting[condition].append((sample.magnitudes, sample.signed))
        if all(self.waiting.values()):
            row = {name: samples.popleft() for name, samples in self.waiting.items()}
            for (one, other), product in self.products.items():
                for own, first, second in zip(product, row[one], row[other], strict=True):
                    own.addcmul_(first, second)
        # Waiting samples of single weights would each take as much as the model.
        elif len(self.waiting[condition]) > most:
            self._give_up()

    def covariances(self, sums: Mapping[str, RunningSums]) -> Covariances | None:
        """Give the covariances of the mean scores; None without pairs.

        Args:
            sums: of each condition.
        """
        [samples, *more] = {one.samples for one in sums.values()}
        if not self.is_paired or more or samples < 2:
            return None
        pairs = list(combinations_with_replacement(sums, 2))
        first = sums[pairs[0][0]]
        # Written where they stay: with single weights as units, every copy counts.
        found = torch.empty(2, len(pairs), len(first.magnitudes), dtype=torch.float64)
        for number, (one, other) in enumerate(pairs):
            own, its = sums[one], sums[other]
            same = own.squares, own.signed_squares
            products = same if one == other else self.products[one, other].unbind()
            totals = (own.magnitudes, its.magnitudes), (own.signed, its.signed)
            for place, product, (a, b) in zip(found[:, number], products, totals, strict=True):
                torch.mul(a, b, out=place).div_(-samples).add_(product)
                if one == other:
                    place.clamp_(min=0)
                place.div_(samples * (samples - 1))
        return Covariances(len(sums), *found)

    def state(self) -> dict[str, Tensor]:
        """Give what `resume` takes."""
        if not self.is_paired:
            return {}
        # Those that wait are saved too: their partners may come after the kill.
        found = {"products": torch.stack(list(self.products.values()))}
        for number, samples in enumerate(self.waiting.values()):
            if samples:
                found[f"waiting {number}"] = torch.stack([torch.stack(own) for own in samples])
        return found

    # Samples that wait here wait for partners that this rank alone would have had.
    def merge(self, ranks: Ranks, *, is_paired: bool) -> None:
        """Add the products of all ranks, in the place of this one's; samples that wait are left."""
        own = {"products": torch.stack(list(self.products.values()))} if self.products else {}
        self.resume(ranks.added(own) if is_paired else {})

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        if "products" not in state:
            self._give_up()
            return
        self.products = dict(zip(self.products, state["products"].unbind(), strict=True))
        for number, name in enumerate(self.waiting):
            held = state.get(f"waiting {number}", torch.empty(0, 2, 0))
            self.waiting[name] = deque((own[0], own[1]) for own in held)

    def _give_up(self) -> None:
        self.is_paired, self.products = False, {}
        self.waiting = {name: deque() for name in self.waiting}


@dataclass
class Condition:
    """One data loader on its way through the model, and what it came to so far.

    Attributes:
        loader: any iterable of batches.
        sums: name of a set of units to its sums.
        held: batches that an earlier run already added, the last of them in part at least.
        held_samples: samples that it added.
        data: digest of those batches.
        finished: batches that are added, the last in part at least.
        drawn: batches that were drawn from the loader in this run.
        given: samples that were given to the workers or already added.
    """

    loader: Iterable[Any]
    sums: dict[str, RunningSums]
    held: int = 0
    held_samples: int = 0
    data: str = ""
    finished: int = 0
    drawn: int = 0
    given: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def state(self, name: str) -> dict[str, Tensor]:
        """Give the tensors of its sums, under its name."""
        return {
            f"of {name}/{units}/{key}": tensor
            for units, sums in self.sums.items()
            for key, tensor in sums.state().items()
        }

    def resume(self, name: str, file: Unfinished) -> None:
        """Go back to a state that a file held.

        Raises:
            CheckpointError: if it holds no such state.
        """
        like = self.state(name)
        file.check({key: t for key, t in file.tensors.items() if key in like}, like)
        note = file.notes.get(name)
        # A batch may be held in part, so that samples are counted beside batches.
        batches, samples, data = _counted(note, file)
        self.held = self.finished = batches
        self.held_samples = self.given = samples
        self.data = data
        for units, sums in self.sums.items():
            sums.resume(under(f"of {name}/{units}/", file.tensors))
            # Two counts of one thing: a file that was put together by hand shows here.
            if sums.samples != samples:
                raise file.broken(f"{sums.samples} samples of {name!r} are added, not {samples}")

    def note(self) -> dict[str, Any]:
        """Say what the sums hold."""
        samples = next(iter(self.sums.values())).samples
        return {"batches": self.finished, "samples": samples, "data": self.data}


def under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors whose names begin so, without that beginning."""
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


def _counted(note: Any, file: Unfinished) -> tuple[int, int, str]:
    match note:
        case {"batches": int(batches), "samples": int(samples), "data": str(data)}:
            if min(batches, samples) >= 0:
                return batches, samples, data
    raise file.broken("it does not say how many batches and samples it holds")


class State:
    """All of a run that must survive a kill.

    Args:
        loaders: name of a condition to its batches.
        indexes: name of a set of units to the units.
        until: when enough samples were drawn.

    Attributes:
        conditions: name to a condition's samples on their way, and their sums.
        settling: how settled the rankings are.
    """

    def __init__(
        self,
        loaders: Mapping[str, Iterable[Any]],
        indexes: Mapping[str, UnitIndex],
        until: Until,
    ) -> None:
        self.indexes = indexes
        self.conditions = {
            name: Condition(loader, {units: RunningSums(index) for units, index in indexes.items()})
            for name, loader in loaders.items()
        }
        self.settling = Settling(until, list(loaders), {u: len(i) for u, i in indexes.items()})
        self._together = {u: CrossSums(list(loaders), len(i)) for u, i in indexes.items()}

    def add(self, condition: str, sample: Sample, missed: Missed | None, waiting: int) -> None:
        """Add one sample.

        Args:
            condition: the condition that the sample belongs to.
            sample: what came of it.
            missed: what its nodes missed, where that is known.
            waiting: how many samples may wait for those of other conditions.
        """
        for units, sums in self.conditions[condition].sums.items():
            own = sample.reduced[units]
            sums.add(own, missed)
            self._together[units].add(condition, own, waiting)
        self.settling.add(condition, sample.reduced)

    def open(self, checkpoint: Path | None, settings: Mapping[str, Any]) -> Unfinished:
        """Open the file that keeps the state, and go back to what it holds.

        Args:
            checkpoint: the file; None keeps nothing.
            settings: what the file must have been made with, of the kinds JSON knows.

        Raises:
            CheckpointError: for a file of another run, or more samples than this one may have.
        """
        stamp: dict[str, Any] = {}
        if checkpoint is not None:
            units = {name: index.fingerprint() for name, index in self.indexes.items()}
            stamp = {
                "kind": "sums",
                "version": VERSION,
                "units": units,
                "conditions": list(self.conditions),
                **settings,
            }
        file = Unfinished(checkpoint, stamp)
        # A file that was just made holds neither.
        if file.notes or file.tensors:
            self._resume(file)
        return file

    def save(self, file: Unfinished) -> None:
        """Write the state, in full or not at all."""
        if file.path is None:
            return
        tensors: dict[str, Tensor] = {}
        # One write of everything: sums of different batches must not stand side by side.
        for name, one in self.conditions.items():
            tensors |= one.state(name)
        for reducer, crossed in self._together.items():
            tensors |= {f"together/{reducer}/{key}": t for key, t in crossed.state().items()}
        tensors |= {f"settling/{key}": tensor for key, tensor in self.settling.state().items()}
        file.save(tensors, {name: one.note() for name, one in self.conditions.items()})

    def merge(self, ranks: Ranks) -> None:
        """Add the sums of all ranks, in the place of each rank's own.

        Sample number k of every condition is the same rank's, so what two conditions have in common
        is a sum over ranks too.

        Raises:
            RankError: if another rank failed, or has other data.
        """
        # A rank that failed after its last batch is heard of before sums are added.
        ranks.meet("the end")
        if ranks.size == 1:
            return
        for one in self.conditions.values():
            for sums in one.sums.values():
                sums.resume(ranks.added(sums.state()))
        # Decided together: a rank that gave up has no products to add.
        paired = ranks.gathered({name: one.is_paired for name, one in self._together.items()})
        for name, crossed in self._together.items():
            crossed.merge(ranks, is_paired=all(flags[name] for flags in paired))

    def scores(self) -> dict[str, dict[str, Scores]]:
        """Give the scores so far: condition, then set of units, to scores."""
        found: dict[str, dict[str, Scores]] = {name: {} for name in self.conditions}
        for units, crossed in self._together.items():
            # Scores of several conditions know each other, so that a contrast's error counts what
            # they share.
            several = {name: one.sums[units] for name, one in self.conditions.items()}
            covariances = crossed.covariances(several)
            for name, sums in several.items():
                paired = None
                if covariances is not None:
                    paired = Paired(covariances, [float(name == other) for other in several])
                found[name][units] = sums.scores(paired)
        return found

    def _resume(self, file: Unfinished) -> None:
        for name, one in self.conditions.items():
            one.resume(name, file)
            most = self.settling.until.max_samples
            if most is not None and one.held_samples > most:
                of = f" of {name!r}" if name else ""
                raise CheckpointError(
                    f"checkpoint {file.path} holds {one.held_samples} samples{of} and max_samples "
                    f"is {most}: sums cannot be taken apart; give max_samples of at least "
                    f"{one.held_samples}, or another file"
                )
        for reducer, crossed in self._together.items():
            held = under(f"together/{reducer}/", file.tensors)
            # Pairs may have been given up; of the samples that wait there may be any number.
            like = {key: t for key, t in crossed.state().items() if key in held}
            row = torch.zeros(2, len(self.indexes[reducer]), dtype=torch.float64)
            for key in held.keys() - like.keys():
                like[key] = row.expand(len(held[key]) if held[key].ndim else 0, -1, -1)
            file.check(held, like)
            crossed.resume(held)
        of_settling = under("settling/", file.tensors)
        file.check(of_settling, self.settling.state())
        self.settling.resume(of_settling)


def own_share(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Batch | None]:
    """Give of each batch this rank's samples; None where it has none of them.

    Raises:
        RankError: if another rank failed, or was given other data.
    """
    drawn, digest = 0, hashlib.sha256()
    for number, batch in enumerate(batches, 1):
        # No digest where there is nobody to compare it with.
        if ranks.size == 1:
            yield batch
            continue
        ranks.check()
        batch.feed(digest.update)
        if is_looked_at(number):
            ranks.compare(f"the data up to batch {number}", digest.hexdigest())
        places = ranks.share(len(batch), first=drawn)
        drawn += len(batch)
        yield None if places is None else batch.on(places)
    ranks.compare("the data", f"{drawn} {digest.hexdigest()}")


def is_looked_at(batch: int) -> bool:
    """Say whether the data up to a batch are compared: the first, second, fourth, eighth..."""
    return batch & (batch - 1) == 0

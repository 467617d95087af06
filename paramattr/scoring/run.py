"""A run: samples are drawn, integrated, summed to units, and averaged into scores."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from paramattr.cost import Cost, Plan, Spent
from paramattr.errors import CheckpointError, ParamattrError
from paramattr.identity import likeness, stamped
from paramattr.integration.accumulation import Attributions, Reduced, Tally
from paramattr.integration.batches import Batch, drawn, no_batch
from paramattr.integration.integral import Integral, Method, Values, replicas
from paramattr.integration.integrals import method_of
from paramattr.runtime.compute import Compute, check_count
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.runtime.workers import in_order, progress_bar
from paramattr.scoring.checks import Preflight
from paramattr.scoring.request import Request
from paramattr.scoring.state import Condition, Missed, Sample, State, is_looked_at, totalled
from paramattr.scoring.until import GROUPS, Until
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores

Function = Callable[[Attributions], Attributions]
"""A function of one sample's attributions, reduced in their place; it may overwrite them."""
Work = Callable[[Batch], Iterator[Sample]]
"""A batch to its samples, one by one: each sample's attributions reduced to every set of units."""

MANY = 64
"""The most samples that share the points of the path."""


def as_they_are(attributions: Attributions) -> Attributions:
    """Return the attributions unchanged."""
    return attributions


# Progress files name it by where it once stood, so they are still read.
as_they_are.__module__ = "paramattr.integration.scoring"


@dataclass(frozen=True)
class Options:
    """The options of one run, made where it is called and passed on whole.

    Attributes:
        method: what makes the integral, with its nodes.
        at_once: number of samples that are differentiated together.
        partitions: number of passes per sample and node, each with the gradients of one part.
        function: applied to each sample's attributions before they are reduced.
        checkpoint: file that an interrupted run resumes from.
        until: when enough samples were drawn.
        show_progress: whether to draw a bar on stderr.
        ranks: the processes that share the samples. Each is given the same loaders, and each gets
            the scores of all samples.

    Raises:
        ParamattrError: for a number that is none, or options that exclude each other.
    """

    method: Method = field(default_factory=lambda: method_of("gausslegendre", 4))
    at_once: int = 1
    partitions: int = 1
    function: Function = as_they_are
    checkpoint: str | Path | None = None
    until: Until = field(default_factory=Until)
    show_progress: bool = False
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        # Before any loader is read.
        check_count("internal_batch_size", self.at_once, ", or None")
        check_count("partitions", self.partitions)
        is_limited = (self.until.agreement, self.until.max_samples) != (None, None)
        if is_limited and self.ranks.processes > 1:
            raise ParamattrError(
                "until and max_samples count the samples of one process, and there are "
                f"{self.ranks.processes}: expected distributed=False with them; leave them out, or "
                "score in one process"
            )

    @property
    def is_plain(self) -> bool:
        """Whether each sample's gradients may be reduced as they come."""
        return self.partitions == self.at_once == 1 and self.function is as_they_are

    def settings(self, integral: Integral) -> dict[str, Any]:
        """Describe the run, to tell its checkpoint from others."""
        if self.checkpoint is None:
            return {}
        settings = {**integral.settings(), **stamped("function", self.function)}
        # Only then: a run without a limit resumes whatever the number of groups is.
        if self.until.agreement is not None:
            until = {"until": self.until.agreement, "fraction": self.until.fraction}
            settings |= {"groups": GROUPS, **until}
        return settings


class Integration:
    """A batch to its samples: each is integrated, and reduced to every set of units.

    Args:
        integral: the integral over samples.
        request: the conditions and units.
        options: the options of the run.
        memory: bytes that points of the path and sums of gradients may take (see `Plan`).
    """

    def __init__(
        self, integral: Integral, request: Request, options: Options, memory: int | None
    ) -> None:
        self.integral, self.options = integral, options
        self.reduction = request.reduction(integral.integrand)
        # Made once: a rule that cannot be split says so before the work.
        self.pieces = integral.partitioned(options.partitions)
        self.direct = integral.by_units(self.reduction, memory) if options.is_plain else None

    def __call__(self, batch: Batch) -> Iterator[Sample]:
        """Give each sample's sums.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        if self.direct is None:
            found = self._by_parts(batch)
        else:
            found = (Sample(units, values) for units, values in self.direct.samples(batch))
        if self.options.function is as_they_are:
            found = totalled(self.integral, found, batch)
        return found

    @property
    def plan(self) -> Plan | None:
        """The order of the gradients; None if attributions are held as a whole."""
        return None if self.direct is None else self.direct.plan

    @property
    def together(self) -> int:
        """Number of samples that are best given at once."""
        return self.options.at_once if self.direct is None else self.direct.planned(MANY).samples

    def _by_parts(self, batch: Batch) -> Iterator[Sample]:
        """Integrate for each sample, part by part of the parameters, and add up what units get.

        Sums of magnitudes and of signs over a unit's entries are sums over parts of them, so
        nothing is lost. One sample's attributions are released before the next one's are computed.
        """
        for samples in batch.chunks(self.options.at_once):
            sums: list[dict[str, Reduced]] = [{} for _ in range(len(samples))]
            seen: list[tuple[Values | None, Spent | None, float | None]]
            seen = [(None, None, None)] * len(samples)
            for piece in self.pieces:
                number = 0
                for found in piece.samples(samples, whole=False, at_once=self.options.at_once):
                    attributions, total, values, taken = found
                    # The tuple held the attributions too.
                    del found
                    for name, own in self._reduced(attributions).items():
                        sums[number][name] = own.plus(sums[number].get(name))
                    del attributions
                    # A rule that takes nodes as needed knows the total; others do not.
                    seen[number] = (values, taken, None if taken is None else float(total))
                    number += 1  # noqa: SIM113 (enumerate would keep the attributions alive)
            for own_sums, of_sample in zip(sums, seen, strict=True):
                yield Sample(own_sums, *of_sample)

    def _reduced(self, attributions: Attributions) -> dict[str, Reduced]:
        tally = Tally(self.reduction)
        with self.integral.integrand.objective.agreeing():
            tally.add_all(self.options.function(attributions))
        # Only now: sums of shards are added up over processes, and none may wait for one that
        # failed above.
        return tally.reduced()


class Account:
    """What is looked at and counted beside a run's sums.

    Args:
        integral: the integral over samples.
        preflight: the checks on the first batches.
        conditions: names of the conditions.
        at_once: number of samples that are differentiated together.
    """

    def __init__(
        self, integral: Integral, preflight: Preflight, conditions: Iterable[str], at_once: int
    ) -> None:
        self.integrand, self.preflight, self.at_once = integral.integrand, preflight, at_once
        self.costs = dict.fromkeys(conditions, Cost())
        self.spent: list[Spent] = []

    def check(self, condition: str, batch: Batch) -> Batch:
        """Fill in a batch's targets, and let its errors surface before the work."""
        batch = self.integrand.referenced(batch, self.at_once)
        # A batch of one shows its errors in its own integral just as soon.
        if not self.preflight(batch, condition, self.at_once) and len(batch) > 1:
            self.integrand.values(0.0, batch, 1)
        return batch

    def watch(self, condition: str, number: int, sample: Sample) -> Missed | None:
        """Count a sample's gradients, and give what its nodes missed, where it is known."""
        gradients = 0 if sample.values is None else len(sample.values.alphas)
        if sample.spent is not None:
            self.spent.append(sample.spent)
            # Values of an adaptive rule are at panels' ends, where there is no gradient.
            gradients = sample.spent.evaluations
        self.costs[condition] = self.costs[condition].plus(gradients)
        return self.preflight.watch(condition, number, sample)


def score_samples(
    integral: Integral,
    request: Request,
    options: Options,
    preflight: Preflight,
    compute: Compute,
) -> dict[str, dict[str, Scores]]:
    """Integrate for each sample of a request, and average the units' scores.

    Args:
        integral: the integral over samples.
        request: the conditions and units.
        options: the options of the run.
        preflight: the checks on the first batches.
        compute: number of threads that process samples in parallel, and their memory.

    Returns:
        Condition, then reducer, to scores. What an adaptive rule spent is listed rank by rank.

    Raises:
        ParamattrError: as `stream`; errors of the objective pass through.
    """
    started, ranks = time.perf_counter(), options.ranks
    integrand = integral.integrand
    how = (options.method, options.at_once if ranks.are_in_step else None)
    integrand.compare(ranks, *how)
    if ranks.processes > 1:
        ranks.compare("the function", likeness(options.function))
    copies = replicas(integral, compute.workers)
    # Workers hold points and sums of their own.
    share = compute.memory and compute.memory // len(copies)
    work = [Integration(one, request, options, share) for one in copies]
    # Which of several threads comes to the first sample is not known.
    if len(copies) == 1:
        preflight.ride(integral.shared_nodes)
    account = Account(integral, preflight, request.loaders, options.at_once)
    state = stream(
        work,
        request.loaders,
        request.indexes,
        options,
        read=partial(
            Batch.from_loader, device=integrand.device, model=integrand.objective.model.model
        ),
        check=account.check,
        watch=account.watch,
        at_once=work[0].together,
        settings=options.settings(integral),
    )
    preflight.conclude()
    each = tuple(one for of_rank in ranks.gathered(account.spent) for one in of_rank)
    # The covariances' time is not the samples'.
    seconds = time.perf_counter() - started
    scores = state.scores()
    for condition, by_reducer in scores.items():
        cost = account.costs[condition]
        for reducer, one in by_reducer.items():
            one.spent = cost._replace(seconds=seconds, each=each, plan=work[0].plan)
            one.agreement = state.settling.agreements.get(condition, {}).get(reducer, one.agreement)
    return scores


class _Part(NamedTuple):
    """Some samples of a condition's batch.

    Attributes:
        condition: the condition that the samples belong to.
        samples: the samples to work on.
        share: their share of the batch.
        number: the batch's number, from 1.
        data: digest of the batches up to it.
        is_last: whether they end the batch.
    """

    condition: str
    samples: Batch
    share: float
    number: int
    data: str
    is_last: bool

    def at_most(self, samples: int | None) -> _Part:
        """Give the first so many of the samples."""
        if samples is None or samples >= len(self.samples):
            return self
        return self._replace(samples=self.samples.part(0, samples), is_last=False)


def stream(
    work: Sequence[Work],
    loaders: Mapping[str, Iterable[Any]],
    indexes: Mapping[str, UnitIndex],
    options: Options,
    *,
    read: Callable[[Any], Batch],
    check: Callable[[str, Batch], Batch] = lambda condition, batch: batch,
    watch: Callable[[str, int, Sample], Missed | None] = lambda condition, number, sample: None,
    at_once: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> State:
    """Average over samples what each unit gets, for each condition.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} |A_i(x)|

    Each worker holds one sample's attributions at a time; the samples are added in their order.
    Conditions take turns, so that their samples of one number are seen close to each other and what
    they have in common is kept without a second pass.

    Args:
        work: gives samples their attributions; one for each worker (see `paramattr.runtime`).
        loaders: name of a condition to its batches.
        indexes: name of a set of units to the units.
        options: the options of the run.
        read: function of what a loader gives, to a batch.
        check: function of a condition and each of its batches before the work, to the batch that is
            worked on.
        watch: function of a condition, and of the number in its loader and what came of each of its
            samples, in their order; gives what the nodes missed, where it is known.
        at_once: most samples of a batch that a worker is given together.
        settings: what the checkpoint must have been made with, of the kinds JSON knows.

    Returns:
        The sums over all samples.

    Raises:
        DataError: if a loader gives no sample, or something that is no batch.
        CheckpointError: if the checkpoint was made with other settings or data.
        RankError: if another rank fails, or was given other units or data.
    """
    with options.ranks.together():
        source = _Source(loaders, indexes, options, settings or {}, read, check, at_once)
        source.run(work, watch)
        return source.state


class _Source:
    """The samples of all conditions, in turns, and what came of them."""

    def __init__(
        self,
        loaders: Mapping[str, Iterable[Any]],
        indexes: Mapping[str, UnitIndex],
        options: Options,
        settings: Mapping[str, Any],
        read: Callable[[Any], Batch],
        check: Callable[[str, Batch], Batch],
        at_once: int,
    ) -> None:
        self.options, self.ranks, self.at_once = options, options.ranks, at_once
        self.read, self.check = read, check
        self.state = State(loaders, indexes, options.until)
        if self.ranks.processes > 1:
            units = {name: index.fingerprint() for name, index in indexes.items()}
            self.ranks.compare("the units and conditions", f"{units} {list(loaders)}")
        # Each rank adds other samples, and keeps a file of its own.
        self.checkpoint = self.ranks.file(options.checkpoint)
        self.file = self.state.open(self.checkpoint, {**settings, **self.ranks.stamp()})
        # Given out, and not yet added: results come in the order of the tasks.
        self.waiting: deque[_Part] = deque()
        self.total = _lengths(loaders.values())

    def run(self, work: Sequence[Work], watch: Callable[[str, int, Sample], Missed | None]) -> None:
        """Work on the samples, and add what comes of them to the state."""
        state, ranks = self.state, self.ranks
        show = self.options.show_progress and ranks.is_first
        with progress_bar("attributing", self.total, show=show) as advance:
            # Drawn by the caller's thread: loaders and hooks need not be safe for several.
            tasks = self._in_turns(advance)
            with closing(in_order(lambda each, part: list(each(part)), work, tasks)) as results:
                for samples in results:
                    part = self.waiting.popleft()
                    one = state.conditions[part.condition]
                    for place, sample in enumerate(samples):
                        missed = watch(part.condition, part.samples.number(place), sample)
                        state.add(part.condition, sample, missed, len(samples))
                    advance(part.share)
                    ranks.check()
                    one.finished, one.data = part.number, part.data
                    state.settling.look()
                    # After whole batches: a write per sample would be a copy of all sums each time.
                    if part.is_last:
                        state.save(self.file)
                    if state.settling.is_settled:
                        break
        state.settling.conclude()
        for one in state.conditions.values():
            self._check_read(one)
        # Last: an empty loader on one rank is an error of its own, not a mismatch.
        state.merge(ranks)

    def _check_read(self, one: Condition) -> None:
        if one.drawn < one.held and not self.state.settling.has_ended(one.given):
            raise CheckpointError(
                f"checkpoint {self.checkpoint} holds {one.held} batches and the loader gave "
                f"{one.drawn}: expected the same loader; give another file, or remove this one"
            )
        if not (one.drawn or one.finished):
            raise no_batch(one.loader)

    def _in_turns(self, advance: Callable[[float], None]) -> Iterator[Batch]:
        """Give the next part of the condition of which the fewest samples were given."""
        conditions, settling = self.state.conditions, self.state.settling
        unfinished = {name: self._parts(name, one, advance) for name, one in conditions.items()}
        while unfinished:
            # Samples of one number come close together, so that few wait for their partners.
            name = min(unfinished, key=lambda name: conditions[name].given)
            given = conditions[name].given
            part = None if settling.has_ended(given) else next(unfinished[name], None)
            if part is None:
                del unfinished[name]
                continue
            part = part.at_most(settling.left(given))
            conditions[name].given += len(part.samples)
            self.waiting.append(part)
            yield part.samples

    def _parts(
        self, name: str, one: Condition, advance: Callable[[float], None]
    ) -> Iterator[_Part]:
        """Draw a condition's batches, cut them, and pass over what is already added."""
        before, given, ranks = 0, 0, self.ranks
        of = f" of {name!r}" if name else ""
        for item in drawn(one.loader, name):
            # Numbers go through the whole loader: drawn rules and errors name samples by them.
            whole = replace(self.read(item), before=given)
            data = self._compared(whole, one, of)
            # Sample number k is the same rank's in every condition, which keeps pairs on one rank.
            places = ranks.share(len(whole), first=given)
            given += len(whole)
            if places is None:
                advance(1)
                continue
            batch = whole if ranks.size == 1 else whole.on(places)
            start, before = before, before + len(batch)
            if before <= one.held_samples:
                advance(1)
                continue
            end = 0
            for part in self.check(name, batch).chunks(self.at_once):
                # An interrupted run may have ended within a batch (`max_samples`, `until`).
                held = max(0, one.held_samples - start - end)
                share, end = len(part) / len(batch), end + len(part)
                if held < len(part):
                    rest = part.part(held, len(part))
                    yield _Part(name, rest, share, one.drawn, data, end == len(batch))
        ranks.compare(f"the data{of}", f"{given} {one.digest.hexdigest()}")

    def _compared(self, whole: Batch, one: Condition, of: str) -> str:
        """Compare a batch with what other ranks, or an earlier run, drew; give the digest."""
        ranks, is_resumed = self.ranks, self.checkpoint is not None
        one.drawn += 1
        if is_resumed or ranks.processes > 1:
            whole.feed(one.digest.update, is_resumed=is_resumed)
        data: str = one.digest.hexdigest()
        if is_looked_at(one.drawn) or ranks.are_in_step:
            ranks.compare(f"the data up to batch {one.drawn}{of}", data)
        if ranks.are_in_step:  # before FSDP averages the gradients of different samples
            ranks.meet("a batch")
        if one.drawn == one.held and data != one.data:
            raise CheckpointError(
                f"checkpoint {self.checkpoint} was made with other data: expected a loader that "
                "gives the same batches in the same order; give another file for another "
                "loader, or remove this one"
            )
        return data


def _lengths(loaders: Iterable[Iterable[Any]]) -> float | None:
    try:
        return float(sum(len(loader) for loader in loaders))  # type: ignore
    except TypeError:
        return None

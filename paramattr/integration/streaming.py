"""Stream data loaders into scores: one pass, any number of conditions and of sets of units."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paramattr.errors import CheckpointError
from paramattr.integration.batches import Batch, no_batch
from paramattr.integration.conditions import Condition as Condition
from paramattr.integration.conditions import under
from paramattr.integration.cross_sums import CrossSums
from paramattr.integration.drawing import drawn
from paramattr.integration.gathering import add_up, is_looked_at
from paramattr.integration.settling import Settling
from paramattr.integration.sums import Missed, RunningSums, Sample
from paramattr.resume import Unfinished
from paramattr.runtime.progress import progress_bar
from paramattr.runtime.ranks import ALONE, Ranks
from paramattr.runtime.workers import in_order
from paramattr.units.covariances import Paired
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores

VERSION = 2
"""Of progress files. Those before it knew objectives and batches by a part of their state."""
Work = Callable[[Batch], Iterator[Sample]]
"""A batch to its samples, one by one: each sample's attributions reduced to every set of units."""


class _Part(NamedTuple):
    """Some samples of a condition's batch.

    Attributes:
        condition: the condition that the samples belong to.
        samples: to work on.
        share: of the batch.
        number: of the batch, from 1.
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
    *,
    read: Callable[[Any], Batch],
    check: Callable[[str, Batch], Batch] = lambda condition, batch: batch,
    watch: Callable[[str, int, Sample], Missed | None] = lambda condition, number, sample: None,
    at_once: int = 1,
    checkpoint: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    settling: Settling | None = None,
    show_progress: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, dict[str, Scores]]:
    """Average over samples what each unit gets, for each condition.

        S_u = 1/|X| Σ_{x in X} Σ_{i in u} |A_i(x)|

    Each worker holds one sample's attributions at a time; the samples are added in their order.
    Conditions take turns, so that their samples of one number are seen close to each other and what
    they have in common is kept without a second pass.

    Args:
        work: gives samples their attributions; one for each worker (see `paramattr.runtime`).
        loaders: name of a condition to its batches.
        indexes: name of a set of units to the units.
        read: what a loader gives to a batch.
        check: a condition and each of its batches before the work, to the batch that is worked on.
        watch: called with a condition, and the number in its loader and what came of each of its
            samples, in their order; gives what the nodes missed, where it is known.
        at_once: most samples of a batch that a worker is given together.
        checkpoint: a file that holds the running sums after each batch. Where it exists, the
            samples that it already holds are passed over.
        settings: what the checkpoint must have been made with, of the kinds JSON knows.
        settling: when enough samples were drawn; after all of them by default.
        show_progress: draw a bar on stderr.
        ranks: the processes that share the samples. Each is given the same loaders, and each gets
            the scores of all samples.

    Returns:
        Condition, then set of units, to scores.

    Raises:
        DataError: if a loader gives no sample, or something that is no batch.
        CheckpointError: if the checkpoint was made with other settings or data.
        RankError: if another rank fails, or was given other units or data.
    """
    with ranks.together():
        return _streamed(
            work,
            loaders,
            indexes,
            partial(_parts, read=read, check=check, at_once=at_once, ranks=ranks),
            watch,
            ranks.file(checkpoint),
            {**(settings or {}), **ranks.stamp()},
            settling or Settling(None, 1.0, None),
            show_progress=show_progress and ranks.is_first,
            ranks=ranks,
        )


def _streamed(
    work: Sequence[Work],
    loaders: Mapping[str, Iterable[Any]],
    indexes: Mapping[str, UnitIndex],
    parts: Callable[..., Iterator[_Part]],
    watch: Callable[[str, int, Sample], Missed | None],
    checkpoint: Path | None,
    settings: Mapping[str, Any],
    settling: Settling,
    *,
    show_progress: bool,
    ranks: Ranks,
) -> dict[str, dict[str, Scores]]:
    conditions = {
        name: Condition(loader, {units: RunningSums(index) for units, index in indexes.items()})
        for name, loader in loaders.items()
    }
    together = {u: CrossSums(list(conditions), len(index)) for u, index in indexes.items()}
    settling.begin(list(loaders), {units: len(index) for units, index in indexes.items()})
    if ranks.processes > 1:
        found = {name: index.fingerprint() for name, index in indexes.items()}
        ranks.compare("the units and conditions", f"{found} {list(conditions)}")
    file = _resumed(conditions, together, settling, indexes, checkpoint, settings)
    waiting: deque[_Part] = deque()
    total = _lengths(loaders.values())
    with progress_bar("attributing", total, show=show_progress) as advance:
        reading = {
            name: parts(name, one, checkpoint=checkpoint, advance=advance)
            for name, one in conditions.items()
        }
        tasks = _in_turns(conditions, reading, waiting, settling)
        with closing(in_order(lambda each, part: list(each(part)), work, tasks)) as results:
            for samples in results:
                part = waiting.popleft()
                one = conditions[part.condition]
                for place, sample in enumerate(samples):
                    missed = watch(part.condition, part.samples.number(place), sample)
                    for units, sums in one.sums.items():
                        own = sample.reduced[units]
                        sums.add(own, missed)
                        together[units].add(part.condition, own, len(samples))
                    settling.add(part.condition, sample.reduced)
                advance(part.share)
                ranks.check()
                one.finished, one.data = part.number, part.data
                settling.look()
                if part.is_last:
                    _save(file, conditions, together, settling)
                if settling.is_settled:
                    break
    settling.conclude()
    for one in conditions.values():
        if one.drawn < one.held and not settling.has_ended(one.given):
            raise CheckpointError(
                f"checkpoint {checkpoint} holds {one.held} batches and the loader gave {one.drawn}:"
                " expected the same loader; give another file, or remove this one"
            )
        if not (one.drawn or one.finished):
            raise no_batch(one.loader)
    add_up(ranks, conditions, together)
    return _scores(conditions, together)


def _parts(
    name: str,
    one: Condition,
    *,
    read: Callable[[Any], Batch],
    check: Callable[[str, Batch], Batch],
    at_once: int,
    ranks: Ranks,
    checkpoint: Path | None,
    advance: Callable[[float], None],
) -> Iterator[_Part]:
    """Draw a condition's batches, cut them, and pass over what is already added."""
    before, given = 0, 0
    for item in drawn(one.loader, name):
        whole = replace(read(item), before=given)
        one.drawn += 1
        if checkpoint is not None or ranks.processes > 1:
            whole.feed(one.digest.update, is_resumed=checkpoint is not None)
        data = one.digest.hexdigest()
        if is_looked_at(one.drawn) or ranks.are_in_step:
            ranks.compare(f"the data up to batch {one.drawn}{_of(name)}", data)
        if ranks.are_in_step:  # before FSDP averages the gradients of different samples
            ranks.meet("a batch")
        if one.drawn == one.held and data != one.data:
            raise CheckpointError(
                f"checkpoint {checkpoint} was made with other data: expected a loader that "
                "gives the same batches in the same order; give another file for another "
                "loader, or remove this one"
            )
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
        for part in check(name, batch).chunks(at_once):
            held = max(0, one.held_samples - start - end)
            share, end = len(part) / len(batch), end + len(part)
            if held < len(part):
                rest = part.part(held, len(part))
                yield _Part(name, rest, share, one.drawn, data, end == len(batch))
    ranks.compare(f"the data{_of(name)}", f"{given} {one.digest.hexdigest()}")


def _in_turns(
    conditions: Mapping[str, Condition],
    reading: Mapping[str, Iterator[_Part]],
    waiting: deque[_Part],
    settling: Settling,
) -> Iterator[Batch]:
    """Give the next part of the condition of which the fewest samples were given."""
    unfinished = dict(reading)
    while unfinished:
        name = min(unfinished, key=lambda name: conditions[name].given)
        given = conditions[name].given
        part = None if settling.has_ended(given) else next(unfinished[name], None)
        if part is None:
            del unfinished[name]
            continue
        part = part.at_most(settling.left(given))
        conditions[name].given += len(part.samples)
        waiting.append(part)
        yield part.samples


def _scores(
    conditions: Mapping[str, Condition], together: Mapping[str, CrossSums]
) -> dict[str, dict[str, Scores]]:
    found: dict[str, dict[str, Scores]] = {name: {} for name in conditions}
    for units, crossed in together.items():
        several = {name: one.sums[units] for name, one in conditions.items()}
        covariances = crossed.covariances(several)
        for name, sums in several.items():
            paired = None
            if covariances is not None:
                paired = Paired(covariances, [float(name == other) for other in several])
            found[name][units] = sums.scores(paired)
    return found


def _resumed(
    conditions: Mapping[str, Condition],
    together: Mapping[str, CrossSums],
    settling: Settling,
    indexes: Mapping[str, UnitIndex],
    checkpoint: str | Path | None,
    settings: Mapping[str, Any],
) -> Unfinished:
    stamp: dict[str, Any] = {}
    if checkpoint is not None:
        units = {name: index.fingerprint() for name, index in indexes.items()}
        stamp = {
            "kind": "sums",
            "version": VERSION,
            "units": units,
            "conditions": list(conditions),
            **settings,
        }
    file = Unfinished(checkpoint, stamp)
    if not file.notes and not file.tensors:
        return file
    for name, one in conditions.items():
        one.resume(name, file)
        most = settling.max_samples
        if most is not None and one.held_samples > most:
            raise CheckpointError(
                f"checkpoint {checkpoint} holds {one.held_samples} samples{_of(name)} and "
                f"max_samples is {most}: sums cannot be taken apart; give max_samples of at least "
                f"{one.held_samples}, or another file"
            )
    for reducer, crossed in together.items():
        held = under(f"together/{reducer}/", file.tensors)
        # Pairs may have been given up; of the samples that wait there may be any number.
        like = {key: t for key, t in crossed.state().items() if key in held}
        row = torch.zeros(2, len(indexes[reducer]), dtype=torch.float64)
        for key in held.keys() - like.keys():
            like[key] = row.expand(len(held[key]) if held[key].ndim else 0, -1, -1)
        file.check(held, like)
        crossed.resume(held)
    of_settling = under("settling/", file.tensors)
    file.check(of_settling, settling.state())
    settling.resume(of_settling)
    return file


def _save(
    file: Unfinished,
    conditions: Mapping[str, Condition],
    together: Mapping[str, CrossSums],
    settling: Settling,
) -> None:
    if file.path is None:
        return
    tensors: dict[str, Tensor] = {}
    for name, one in conditions.items():
        tensors |= one.state(name)
    for reducer, crossed in together.items():
        tensors |= {f"together/{reducer}/{key}": t for key, t in crossed.state().items()}
    tensors |= {f"settling/{key}": tensor for key, tensor in settling.state().items()}
    file.save(tensors, {name: one.note() for name, one in conditions.items()})


def _of(condition: str) -> str:
    return f" of {condition!r}" if condition else ""


def _lengths(loaders: Iterable[Iterable[Any]]) -> float | None:
    try:
        return float(sum(len(loader) for loader in loaders))  # type: ignore
    except TypeError:
        return None

"""Integrals by rules that say beforehand how many nodes there are, and their sums over units."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramattr.cost import Plan
from paramattr.errors import ModelError
from paramattr.integration.accumulation import (
    BUFFERS,
    CHUNK,
    Attributions,
    Products,
    Reduced,
    Reduction,
    Speed,
    Sums,
    Tally,
)
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import Take, came_in_parts, check_finite_values
from paramattr.integration.integral import (
    Integrated,
    Node,
    Stretch,
    Values,
    integrated,
    place,
    stretches,
    summed,
    total_over,
)
from paramattr.integration.integrand import Integrand
from paramattr.quadrature import Rule, drawn
from paramattr.runtime.compute import in_parts

LARGE = 2**18
"""Mean entries per parameter from which on an accelerator takes them one by one too."""
BETWEEN = (0.25, 0.5, 0.75)
"""Where the first samples are looked at if they share no nodes: a barrier may lie there."""


class Sizes(NamedTuple):
    """Sizes that change how fast gradients are reduced, and nothing else.

    Attributes:
        small: bytes of parameters up to which all gradients of a pass are held: 16 MiB. A hook for
            each of many small parameters takes longer than it saves.
        queue: bytes of gradients that wait in larger models. Between two layers they would push
            out of the cache what the next one reads, and memory that is freed at once goes back to
            the system and is zeroed anew.
        chunk: number of entries that are multiplied together on a CPU.
    """

    small: int = 2**24
    queue: int = 2**23
    chunk: int = CHUNK


@dataclass(frozen=True)
class Fixed:
    """A rule with the same nodes for every sample.

    Args:
        rule: nodes and weights on [0, 1].
        sizes: sizes that change how fast gradients are reduced.
    """

    rule: Rule
    sizes: Sizes = field(default_factory=Sizes)
    needs_all = False

    def integral(self, integrand: Integrand) -> PathIntegral:
        """Give the integral of the objective along the path."""
        # A progress file knows the rule by its nodes, whatever it is called.
        settings = self.rule.settings()
        return PathIntegral(integrand, lambda number: self.rule, True, settings, self.sizes)

    def check_shards(self) -> None:
        """Accept models that are sharded over processes."""


@dataclass(frozen=True)
class Drawn:
    """The rule `quadrature.drawn`: the k-th sample of a loader meets the k-th nodes.

    Args:
        strata: number of nodes per sample, on each smooth piece of the path.
        sizes: sizes that change how fast gradients are reduced.
    """

    strata: int
    sizes: Sizes = field(default_factory=Sizes)
    needs_all = False

    def integral(self, integrand: Integrand) -> PathIntegral:
        """Give the integral of the objective along the path.

        Raises:
            ModelError: for a curved path, whose speed changes from sample to sample.
        """
        if not integrand.path.is_piecewise_linear:
            raise ModelError(
                'method="drawn" and the path is curved: expected a piecewise linear path; take '
                "another method"
            )
        settings = {"name": "drawn", "nodes": self.strata}
        return PathIntegral(integrand, partial(drawn, self.strata), False, settings, self.sizes)

    def check_shards(self) -> None:
        """Reject models that are sharded over processes.

        Raises:
            ModelError: always: they share each point of the path.
        """
        raise ModelError(
            'method="drawn" and the model is sharded: expected a rule whose nodes are the same '
            "for all samples"
        )


class PathIntegral:
    """The integral of an integrand, by a rule placed on each smooth piece of the path.

    Args:
        integrand: the objective along the path.
        rule_of: a sample's number to its rule.
        shares_nodes: whether all samples have the same rule.
        rule_settings: description of the rule, to tell runs apart.
        sizes: sizes that change how fast gradients are reduced.
    """

    def __init__(
        self,
        integrand: Integrand,
        rule_of: Callable[[int], Rule],
        shares_nodes: bool,
        rule_settings: Any,
        sizes: Sizes,
    ) -> None:
        self.integrand, self.sizes = integrand, sizes
        self.shares_nodes = shares_nodes
        self._rule_of, self._rule_settings = rule_of, rule_settings
        self.stretches = self._stretches(0)

    @property
    def moving(self) -> list[str]:
        """List all parameters that move somewhere."""
        return list(dict.fromkeys(name for stretch in self.stretches for name in stretch.moving))

    @property
    def reports_all(self) -> bool:
        """Say whether all that moves is reported."""
        return frozenset(self.integrand.reported).issuperset(self.moving)

    @property
    def shared_nodes(self) -> Sequence[float]:
        """List where every sample's gradients of all that moves are taken."""
        if not (self.shares_nodes and self.reports_all) or self.integrand.points.are_in_place:
            return ()  # one process sees the slope along its own shards alone
        return [node.alpha for stretch in self.stretches for node in stretch.nodes]

    @property
    def looked_at(self) -> Sequence[float]:
        """List places that a first look needs, since samples share no nodes."""
        return () if self.shares_nodes else BETWEEN

    def of_sample(self, sample: Batch) -> list[Stretch]:
        """Give the nodes that one sample meets."""
        return self.stretches if self.shares_nodes else self._stretches(sample.number(0))

    def over(self, batch: Batch, *, whole: bool) -> Integrated:
        """Integrate the objective's sum over a batch; as `Integral.over`."""
        # Samples that share nodes are differentiated as a sum; with nodes of their own each needs a
        # pass.
        if self.shares_nodes or len(batch) == 1:
            work = partial(
                integrated, self.integrand, self.of_sample(batch), whole=whole, each=False
            )
            return summed(list(in_parts(batch, len(batch), work, self._model)))
        found = summed(list(self.samples(batch, whole=whole)))
        return found._replace(values=Values((), torch.zeros(0, len(batch))))  # no place is shared

    def samples(self, batch: Batch, *, whole: bool, at_once: int = 1) -> Iterator[Integrated]:
        """Integrate over the path for each sample separately; as `Integral.samples`."""
        start, work = 0, partial(self._of_each, whole=whole)
        while start < len(batch):
            # Asked anew: it turns False where `vmap` fails on the first samples.
            is_batchable = self.integrand.objective.is_batchable and self.shares_nodes
            size = at_once if is_batchable else 1
            rest = batch.part(start, len(batch))
            for several in in_parts(rest, size, work, self._model):
                start += len(several)
                yield from several
                del several  # before the next samples' attributions are made
                if size > 1 and not self.integrand.objective.is_batchable:
                    break

    def by_units(self, reduction: Reduction, memory: int | None) -> GradientsToUnits | None:
        """Give the integral that sums gradients over units as they come.

        There is one on one smooth piece of the path. On an accelerator it is for large parameters
        alone, since the sums of small ones take as long as their kernels can be launched.
        """
        # Over several pieces the speed changes, and a sum must be multiplied before the next piece.
        if len(self.stretches) != 1:
            return None
        sizes = [value.numel() for value in self.integrand.path.start.values()]
        is_large = sum(sizes) >= LARGE * len(sizes) or self.integrand.points.are_in_place
        if self.integrand.device.type != "cpu" and not is_large:
            return None
        return GradientsToUnits(self, reduction, memory)

    def total(self, sample: Batch) -> float:
        """Sum the attributions of a sample over all that moves, without holding any."""
        nodes = (node for stretch in self.of_sample(sample) for node in stretch.nodes)
        return total_over(self.integrand, nodes, sample)

    def partitioned(self, parts: int) -> Sequence[PathIntegral]:
        """Split the integral into several, each of the parameters of one part.

        The parts follow the model's order and are as even as whole parameters allow. What does not
        move has no attribution, and is in none of them.
        """
        if parts == 1:
            return [self]
        start, reported = self.integrand.path.start, frozenset(self.integrand.reported)
        sizes = {name: start[name].numel() for name in self.moving if name in reported}
        # Copies share the points of the path and the look at the first gradients.
        found = []
        for part in groups(sizes, parts):
            piece = copy.copy(self)
            piece.integrand = replace(self.integrand, reported=tuple(part))
            found.append(piece)
        # Where nothing reported moves there is no part, and the integral is zero.
        return found or [self]

    def replica(self) -> PathIntegral:
        """Return a copy for another thread; as `Integral.replica`."""
        other = copy.copy(self)
        other.integrand = self.integrand.replica()
        return other

    def settings(self) -> dict[str, Any]:
        """Describe the integral, to tell runs apart."""
        return {**self.integrand.settings(), "rule": self._rule_settings}

    @property
    def _model(self) -> nn.Module:
        return self.integrand.objective.model.model

    def _stretches(self, number: int) -> list[Stretch]:
        rule, pieces = self._rule_of(number), pairwise(self.integrand.path.breakpoints)
        placed = [place(rule.nodes, rule.weights, *ends) for ends in pieces]
        # Comparing them again for each sample would read both models.
        if number:  # which parameters move was found for the first sample
            moving = [stretch.moving for stretch in self.stretches]
            return [Stretch(nodes, own) for nodes, own in zip(placed, moving, strict=True)]
        return [one for nodes in placed for one in stretches(self.integrand, nodes)]

    def _of_each(self, batch: Batch, *, whole: bool) -> list[Integrated]:
        if len(batch) == 1:
            return [self.over(batch, whole=whole)]
        sums, totals, (alphas, values), _ = integrated(
            self.integrand, self.stretches, batch, whole=whole, each=True
        )
        return [
            Integrated(
                {name: value[number] for name, value in sums.items()},
                totals[number],
                Values(alphas, values[:, number : number + 1]),
            )
            for number in range(len(batch))
        ]


class GradientsToUnits:
    """The integral over samples, one parameter after the other.

    A gradient is multiplied by the path's speed and summed over units as soon as the last backward
    pass gives it, so that neither all gradients of a pass nor the attributions are ever held. Sums
    of gradients are held where the rule has several nodes, in memory that is used anew.

    Args:
        integral: the integral, on one stretch of the path.
        reduction: the sums over units.
        memory: bytes that points of the path and sums of gradients may take, as in `Plan.of`.

    Attributes:
        plan: the order of the gradients of the last batch.
    """

    def __init__(self, integral: PathIntegral, reduction: Reduction, memory: int | None) -> None:
        self.integral, self.reduction, self.memory = integral, reduction, memory
        self.integrand = integral.integrand
        [stretch] = integral.stretches
        reported = frozenset(self.integrand.reported)
        self.nodes = stretch.nodes
        self.names = [name for name in stretch.moving if name in reported]
        self.holds_all = _holds_all(integral)
        self.plan = self.planned(1)
        self._products = self._with_room(self.plan)
        self._last: Attributions = {}
        self._rooms: list[Attributions] = []

    def planned(self, samples: int) -> Plan:
        """Plan the gradients of samples that come together."""
        size = sum(value.nbytes for value in self.integrand.path.start.values())
        # A point lives in the model's own memory: there is one, and each pass writes it.
        if self.integrand.points.are_in_place:
            return Plan.alone(len(self.nodes), size, 0)
        if self.integral.shares_nodes:
            return Plan.of(len(self.nodes), samples, size, self.memory)
        return Plan.alone(len(self.nodes), size, self.memory)

    def held_bytes(self) -> int:
        """Give the bytes of gradients that wait, and of what they are reduced in."""
        start = self.integrand.path.start
        zeros = self.integrand.kinds(self.names)
        gradients = sum(start[name].numel() * kind.itemsize for name, kind in zeros.items())
        if self.holds_all:
            return 2 * gradients
        sizes = {start[name].shape: start[name].nbytes for name in self.names}
        largest = sorted(sizes.values(), reverse=True)[:BUFFERS]
        waiting = min(gradients, self.integral.sizes.queue + max(largest, default=0))
        return waiting + 2 * sum(min(size, 4 * CHUNK) for size in largest)

    def samples(self, batch: Batch) -> Iterator[tuple[dict[str, Reduced], Values]]:
        """Integrate for each sample, and reduce its attributions to every set of units.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        # The last batch is shorter, and fewer samples may be held at once.
        plan = self.planned(len(batch))
        if plan != self.plan:
            self.plan = plan
            del self._rooms[plan.sums :]
            self._products = self._with_room(plan)
        self.integrand.points.keep(plan.points)
        for part in batch.chunks(plan.samples):
            yield from self._together(list(part.chunks(1)))

    def _together(self, samples: list[Batch]) -> Iterator[tuple[dict[str, Reduced], Values]]:
        # Each sample's own: the magnitude is taken per sample, before the mean.
        tallies = [Tally(self.reduction) for _ in samples]
        sums = [Sums(self._room(number)) for number in range(len(samples))]
        values: list[list[Tensor]] = [[] for _ in samples]
        if not self.integral.shares_nodes:
            [stretch] = self.integral.of_sample(samples[0])
            self.nodes = stretch.nodes
        if self.names:
            for node in self.nodes:
                for number, sample in enumerate(samples):
                    found = self._gradients(node, sample, sums[number], tallies[number])
                    values[number].append(found)
        alphas = tuple(node.alpha for node in self.nodes) if self.names else ()
        for sample, tally, own, seen in zip(samples, tallies, sums, values, strict=True):
            for name in own.left():  # of what the last pass gave no gradient
                self._products.tally(tally, name, own)
            check_finite_values(seen, sample.first)
            along = torch.stack(seen) if seen else torch.zeros(0, 1)
            yield self._checked(tally.reduced(), sample), Values(alphas, along)

    def _gradients(self, node: Node, sample: Batch, sums: Sums, tally: Tally) -> Tensor:
        """Differentiate at a node, add to the sums, and give the objective's value."""
        is_last = node is self.nodes[-1]
        # FSDP may give a gradient in parts. Before the last node they add up; there they would not.
        finished = set[str]()

        def add(name: str, gradient: Tensor) -> None:
            if not is_last:
                sums.add(name, gradient, node.weight)
                return
            if name in finished:
                raise came_in_parts(name)
            finished.add(name)
            self._products.tally(tally, name, sums, (gradient, node.weight))

        if self.holds_all:
            found = self.integrand.gradients(node.alpha, sample, self.names)
            # Kept until the next ones are there: the system would take the memory, and zero it.
            self._last = found.by_name
            if not is_last:
                sums.add_all(found.by_name, node.weight)
            for name, gradient in found.by_name.items() if is_last else ():
                add(name, gradient)
            return found.values
        # Between two layers' backward passes the work would evict what the next layer reads.
        queue = _Queue(add, self.integral.sizes.queue)
        found = self.integrand.gradients(node.alpha, sample, self.names, take=queue.put)
        queue.empty()
        return found.values

    def _checked(self, found: dict[str, Reduced], sample: Batch) -> dict[str, Reduced]:
        """Look for what is not finite: in the parameters themselves, so that they are named."""
        if all(math.isfinite(float(one.magnitudes.sum()) + one.rest) for one in found.values()):
            return found
        # Taken again, whole this time: only now is the parameter's name worth a second pass.
        attributions = self.integral.over(sample, whole=False).attributions
        return self.reduction.of({name: value.double() for name, value in attributions.items()})

    def _with_room(self, plan: Plan) -> Products:
        speed = Speed(self.integrand.path, self.nodes[0].alpha, plan.speed)
        return Products(speed, self.integral.sizes.chunk)

    def _room(self, number: int) -> Attributions:
        """Give the memory of a sample's sums."""
        # With one node the gradient itself is the sum.
        if len(self.nodes) == 1:
            return {}
        if number == len(self._rooms):
            self._rooms.append(self.integrand.zeros(self.names, of_gradients=True))
        return self._rooms[number]


class _Queue:
    """Gradients that wait until there are many, or until the backward pass is over.

    Args:
        add: function of each name and gradient in the end.
        most: bytes that wait.
    """

    def __init__(self, add: Take, most: int) -> None:
        self._add, self._most = add, most
        self._waiting, self._bytes = deque[tuple[str, Tensor]](), 0

    def put(self, name: str, gradient: Tensor) -> None:
        """Take a gradient in, and let the first ones go if there are too many."""
        self._waiting.append((name, gradient))
        self._bytes += _bytes(gradient)
        self.empty(self._most)

    def empty(self, most: int = 0) -> None:
        """Let the first ones go until there are few enough."""
        while self._waiting and self._bytes > most:
            name, gradient = self._waiting.popleft()
            self._bytes -= _bytes(gradient)
            self._add(name, gradient)


def groups(sizes: Mapping[str, int], parts: int) -> list[list[str]]:
    """Cut names into runs of about the same size.

    >>> groups({"a": 1, "b": 1, "c": 2}, 2)
    [['a', 'b'], ['c']]
    """
    total, before = sum(sizes.values()), 0
    found: list[list[str]] = [[] for _ in range(parts)]
    for name, size in sizes.items():
        middle = before + size / 2
        found[min(parts - 1, int(parts * middle / total)) if total else 0].append(name)
        before += size
    return [group for group in found if group]


def _holds_all(integral: PathIntegral) -> bool:
    """Say whether the gradients of a pass are all held, and those of the last one beside them."""
    sizes = (value.nbytes for value in integral.integrand.path.start.values())
    return sum(sizes) <= integral.sizes.small and not integral.integrand.points.are_in_place


def _bytes(gradient: Tensor) -> int:
    return gradient._values().nbytes if gradient.is_sparse else gradient.nbytes

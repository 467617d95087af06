"""The integral of Eq. 5 per sample, reduced to units while the gradients come."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.integration.batches import Batch
from paramattr.integration.gradients import Take, check_finite_values
from paramattr.integration.integrand import Attributions, Integrand
from paramattr.integration.path_integral import Node, PathIntegral, Values
from paramattr.integration.plan import Plan
from paramattr.integration.reduction import Reduced, Reduction, Tally, chunks
from paramattr.runtime.compute import wide

SMALL = 2**24
"""Bytes of parameters up to which all gradients of a pass are held: 16 MiB. A hook for each of many
small parameters takes longer than it saves."""
LARGE = 2**18
"""Mean entries per parameter from which on an accelerator takes them one by one too."""
WAITING = 2**23
"""Bytes of gradients that wait. Between two layers they would push out of the cache what the next
one reads, and memory that is freed at once goes back to the system and is zeroed anew."""
BUFFERS = 16
"""Shapes of parts of parameters for which memory is kept, a megabyte at most for each."""


class UnitIntegral:
    """The integral over samples, one parameter after the other.

    A gradient is multiplied by the path's speed and summed over units as soon as the last backward
    pass gives it, so that neither all gradients of a pass nor the attributions are ever held. Sums
    of gradients are held where the rule has several nodes, in memory that is used anew.

    Args:
        integral: the integral.
        reduction: the sums over units.
        memory: bytes that points of the path and sums of gradients may take, as in `Plan.of`.

    Attributes:
        plan: the order of the gradients of the last batch.
    """

    def __init__(
        self, integral: PathIntegral, reduction: Reduction, memory: int | None = None
    ) -> None:
        self.integral, self.reduction, self.memory = integral, reduction, memory
        self.integrand = integral.integrand
        [stretch] = integral.stretches
        self.nodes = stretch.nodes
        self.names = [name for name in stretch.moving if name in integral.reported]
        self.plan = self.planned(1)
        self.holds_all = holds_all(self.integrand)
        self._last: Attributions = {}
        self._sums: list[Attributions] = []
        self._speed: Attributions = {}
        self._room_of_speed = self.plan.speed
        self._buffers: dict[tuple[object, ...], Tensor] = {}

    @staticmethod
    def fits(integral: object) -> bool:
        """Say whether an integral can be taken parameter by parameter.

        It can on one smooth piece of the path. On an accelerator it is for large parameters alone,
        since the sums of small ones take as long as their kernels can be launched.
        """
        if not isinstance(integral, PathIntegral) or len(integral.stretches) != 1:
            return False
        sizes = [value.numel() for value in integral.integrand.path.start.values()]
        is_large = sum(sizes) >= LARGE * len(sizes)
        return integral.integrand.device.type == "cpu" or is_large

    def planned(self, samples: int) -> Plan:
        """Plan the gradients of samples that come together."""
        size = sum(value.nbytes for value in self.integrand.path.start.values())
        if self.integral.has_fixed_nodes:
            return Plan.of(len(self.nodes), samples, size, self.memory)
        return Plan.alone(len(self.nodes), size, self.memory)

    def samples(self, batch: Batch) -> Iterator[tuple[dict[str, Reduced], Values]]:
        """Integrate for each sample, and reduce its attributions to every set of units.

        Raises:
            ObjectiveError: if the objective or a gradient is not finite somewhere.
        """
        plan = self.planned(len(batch))
        if plan != self.plan:
            self.plan = plan
            del self._sums[plan.sums :]
            self._speed.clear()
            self._room_of_speed = plan.speed
        self.integrand.points.keep(plan.points)
        for part in batch.chunks(plan.samples):
            yield from self._together(list(part.chunks(1)))

    def _together(self, samples: list[Batch]) -> Iterator[tuple[dict[str, Reduced], Values]]:
        tallies = [Tally(self.reduction) for _ in samples]
        held = [_Held(self._room(number), set()) for number in range(len(samples))]
        values: list[list[Tensor]] = [[] for _ in samples]
        if not self.integral.has_fixed_nodes:
            [stretch] = self.integral.of_sample(samples[0]).stretches
            self.nodes = stretch.nodes
        if self.names:
            for node in self.nodes:
                for number, sample in enumerate(samples):
                    found = self._gradients(node, sample, held[number], tallies[number])
                    values[number].append(found)
        alphas = tuple(node.alpha for node in self.nodes) if self.names else ()
        for sample, tally, sums, seen in zip(samples, tallies, held, values, strict=True):
            for name in [*sums.names, *sums.rows]:  # of what the last pass gave no gradient
                self._finish(name, None, sums, tally)
            check_finite_values(seen, sample.first)
            along = torch.stack(seen) if seen else torch.zeros(0, 1)
            yield self._checked(tally.reduced(), sample), Values(alphas, along)

    def _gradients(self, node: Node, sample: Batch, held: _Held, tally: Tally) -> Tensor:
        """Differentiate at a node, add to the sums, and give the objective's value."""
        add = partial(self._add, node, held, tally)
        if self.holds_all:
            found = self.integrand.gradients(node.alpha, sample, self.names)
            # Kept until the next ones are there: the system would take the memory, and zero it.
            self._last = found.by_name
            if node is self.nodes[-1]:
                for name, gradient in found.by_name.items():
                    add(name, gradient)
            else:
                self._add_all(node, held, found.by_name)
            return found.values
        queue = _Queue(add)
        found = self.integrand.gradients(node.alpha, sample, self.names, take=queue.put)
        queue.empty()
        return found.values

    def _add_all(self, node: Node, held: _Held, gradients: Attributions) -> None:
        """Add all gradients to their sums in one call."""
        sums = [held.sums[name] for name in gradients]
        if not held.names:
            torch._foreach_zero_(sums)
            held.names.update(gradients)
        torch._foreach_add_(sums, list(gradients.values()), alpha=node.weight)

    def _add(self, node: Node, held: _Held, tally: Tally, name: str, gradient: Tensor) -> None:
        """Add a gradient to its sum, or finish it if it is the last node's."""
        if gradient.is_sparse and name not in held.names:
            self._add_rows(node, held, tally, name, gradient)
        elif gradient.is_sparse:
            held.sums[name].add_(gradient, alpha=node.weight)
            if node is self.nodes[-1]:
                self._finish(name, None, held, tally)
        elif node is self.nodes[-1]:
            self._finish(name, (gradient, node.weight), held, tally)
        elif name in held.names:
            held.sums[name].add_(gradient, alpha=node.weight)
        else:
            torch.mul(gradient, node.weight, out=held.sums[name])
            held.names.add(name)
            if name in held.rows:
                held.sums[name].add_(held.rows.pop(name))

    def _add_rows(self, node: Node, held: _Held, tally: Tally, name: str, gradient: Tensor) -> None:
        """Do what `_add` does, with the rows that an embedding read."""
        weighted = gradient if node.weight == 1 else gradient * node.weight
        if name in held.rows:
            weighted = held.rows.pop(name) + weighted
        if node is self.nodes[-1]:
            self._finish_rows(name, weighted, tally)
        else:
            held.rows[name] = weighted

    def _finish_rows(self, name: str, gradient: Tensor, tally: Tally) -> None:
        gradient = gradient.coalesce()
        [rows] = gradient.indices()
        speed = self.integrand.path.derivative_of(name, self.nodes[0].alpha, rows)
        dtype = torch.promote_types(wide(speed.dtype), gradient.dtype)
        signed = gradient.values().to(dtype) * speed
        tally.add(name, [torch.stack((signed, signed.abs()))], rows)

    def _finish(
        self, name: str, last: tuple[Tensor, float] | None, held: _Held, tally: Tally
    ) -> None:
        """Multiply a sum of gradients by the speed, and add it to the units, part by part."""
        if last is None and name in held.rows:
            self._finish_rows(name, held.rows.pop(name), tally)
            return
        before = held.sums[name] if name in held.names else None
        held.names.discard(name)
        if last is not None and name in held.rows:
            gradient, weight = last
            last = (gradient * weight + held.rows.pop(name), 1.0)
        tally.add(name, self._products(name, before, last))

    def _products(
        self, name: str, before: Tensor | None, last: tuple[Tensor, float] | None
    ) -> Iterator[Float[Tensor, "2 ..."]]:
        """Give the attributions and their magnitudes, some rows after the other."""
        [whole, *sums] = (self._rows(t) for t in (last and last[0], before) if t is not None)
        for rows in chunks(whole):
            signed, magnitudes = both = self._buffer(name, whole[rows])
            speed = self._speed_of(name, rows, magnitudes)
            if last is None or (not sums and last[1] == 1):
                torch.mul(whole[rows], speed, out=signed)
            elif sums:
                torch.add(sums[0][rows], whole[rows], alpha=last[1], out=signed).mul_(speed)
            else:
                torch.mul(whole[rows], last[1], out=signed).mul_(speed)
            torch.abs(signed, out=magnitudes)
            yield both

    def _speed_of(self, name: str, rows: slice, room: Tensor) -> Tensor:
        """Give the path's speed in some rows, held or computed in memory that there is."""
        alpha = self.nodes[0].alpha
        if name in self._speed:
            return self._speed[name][rows]
        size = self.integrand.path.start[name].nbytes
        if size > self._room_of_speed:
            out = room if self.integrand.path.start[name].ndim else None
            return self.integrand.path.derivative_of(name, alpha, rows, out)
        self._room_of_speed -= size
        self._speed[name] = self._rows(self.integrand.path.derivative_of(name, alpha, slice(None)))
        return self._speed[name][rows]

    def _checked(self, found: dict[str, Reduced], sample: Batch) -> dict[str, Reduced]:
        """Look for what is not finite: in the parameters themselves, so that they are named."""
        if all(math.isfinite(float(one.magnitudes.sum()) + one.rest) for one in found.values()):
            return found
        attributions = self.integral.over(sample, whole=False).attributions
        return self.reduction.of({name: value.double() for name, value in attributions.items()})

    def _room(self, number: int) -> Attributions:
        """Give the memory of a sample's sums."""
        if len(self.nodes) == 1:
            return {}
        if number == len(self._sums):
            self._sums.append(self.integrand.zeros(self.names, of_gradients=True))
        return self._sums[number]

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        """Give memory for some rows' products and their magnitudes, in the rows' own layout."""
        dtype = torch.promote_types(wide(self.integrand.path.start[name].dtype), like.dtype)
        if like.device.type != "cpu":
            return _pair(like, dtype)
        key = like.shape, like.stride(), dtype
        if key not in self._buffers:
            if len(self._buffers) == BUFFERS:
                self._buffers.clear()
            self._buffers[key] = _pair(like, dtype)
        return self._buffers[key]

    @staticmethod
    def _rows(values: Tensor) -> Tensor:
        return values if values.ndim else values[None]


def holds_all(integrand: Integrand) -> bool:
    """Say whether the gradients of a pass are all held, and those of the last one beside them."""
    return sum(value.nbytes for value in integrand.path.start.values()) <= SMALL


class _Queue:
    """Gradients that wait until there are many, or until the backward pass is over.

    Args:
        add: what is done with each in the end.
    """

    def __init__(self, add: Take) -> None:
        self._add, self._waiting, self._bytes = add, deque[tuple[str, Tensor]](), 0

    def put(self, name: str, gradient: Tensor) -> None:
        """Take a gradient in, and let the first ones go if there are too many."""
        self._waiting.append((name, gradient))
        self._bytes += _bytes(gradient)
        self.empty(WAITING)

    def empty(self, most: int = 0) -> None:
        """Let the first ones go until there are few enough."""
        while self._waiting and self._bytes > most:
            name, gradient = self._waiting.popleft()
            self._bytes -= _bytes(gradient)
            self._add(name, gradient)


def _bytes(gradient: Tensor) -> int:
    return gradient._values().nbytes if gradient.is_sparse else gradient.nbytes


def _pair(like: Tensor, dtype: torch.dtype) -> Float[Tensor, "2 ..."]:
    """Make two tensors in one, each laid out in memory as a given one."""
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda d: (-strides[d], d))
    pair = torch.empty([2, *(like.shape[d] for d in order)], dtype=dtype, device=like.device)
    return pair.permute(0, *(order.index(d) + 1 for d in range(like.ndim)))


class _Held:
    """A sample's sums of gradients, of which parameters they hold any yet, and sparse sums."""

    def __init__(self, sums: Attributions, names: set[str]) -> None:
        self.sums, self.names, self.rows = sums, names, Attributions()

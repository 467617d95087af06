"""Gradient times speed, summed over nodes and units: the one loop of every integral."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paramattr.paths import FittedPath
from paramattr.runtime.compute import wide
from paramattr.units.index import UnitIndex

Attributions = dict[str, Tensor]
"""Names to tensors shaped like the parameters, or `(B, *shape)` per sample."""
BUFFERS = 16
"""Shapes of parts of parameters for which memory is kept, a megabyte at most for each."""
CHUNK = 2**17
"""Entries that are taken together on a CPU, so that what is made of them stays in its cache."""


class Reduced(NamedTuple):
    """One sample's attributions, reduced to units, in float64 on the CPU.

    Attributes:
        magnitudes: Σ_{i in u} |A_i| of each unit.
        signed: Σ_{i in u} A_i of each unit.
        rest: Σ |A_i| over entries of no unit.
        total: Σ A_i over all entries, in a unit or not; NaN where it is not known.
    """

    magnitudes: Float[Tensor, "units"]
    signed: Float[Tensor, "units"]
    rest: float = 0.0
    total: float = math.nan

    def plus(self, other: Reduced | None) -> Reduced:
        """Add what the same units get from other parameters."""
        if other is None:
            return self
        return Reduced(
            other.magnitudes + self.magnitudes,
            other.signed + self.signed,
            other.rest + self.rest,
            other.total + self.total,
        )


class _Place(NamedTuple):
    """Where a parameter's entries go in one set of units.

    Attributes:
        units: name of the set.
        targets: unit of each entry, one past the last unit for none; one along dimensions that a
            unit spans.
        first: the first unit, if the targets are that one and those that follow it, in order.
    """

    units: str
    targets: Tensor
    first: int | None

    def of_rows(self, rows: Int[Tensor, "some"], whole: Tensor) -> _Place:
        """Give the place of some rows; `whole` holds what goes there."""
        own = self.targets.view(-1, whole[0, :1].numel())[rows]
        return self._replace(targets=own.flatten(), first=None)


class Reduction:
    """The sums over units that a run takes of each sample.

    Args:
        indexes: name of each set of units to the units.
        device: where the attributions are.
        gather: adds one process's sums to those of the others, where parameters are shards.
    """

    def __init__(
        self,
        indexes: Mapping[str, UnitIndex],
        device: torch.device,
        gather: Callable[[Reduced], Reduced] | None = None,
    ) -> None:
        self.device, self.gather = device, gather
        self.sizes = {units: len(index) for units, index in indexes.items()}
        self._places: dict[str, dict[tuple[int, ...], list[_Place]]] = {}
        for units, index in indexes.items():
            for name, labels in index.all_labels():
                # Labels are as small as they can be: a dimension that a unit spans has size one,
                # and is summed over before anything is scattered.
                spanned = tuple(d for d, size in enumerate(labels.shape) if size == 1)
                # One place past the last unit takes the entries of none, so that no mask is needed.
                targets = labels.to(device, torch.int64).flatten() % (len(index) + 1)
                place = _Place(units, targets, _first(targets))
                self._places.setdefault(name, {}).setdefault(spanned, []).append(place)

    def places(self, name: str) -> Mapping[tuple[int, ...], list[_Place]]:
        """Give a parameter's places, by the dimensions that units span."""
        return self._places.get(name, {})

    def of(self, attributions: Mapping[str, Tensor]) -> dict[str, Reduced]:
        """Reduce a sample's attributions.

        Args:
            attributions: names to tensors shaped like the parameters and buffers.

        Returns:
            Name of each set of units to the sums. The entries of a chunk are summed in their own
            precision on a CPU, and chunks in float64.
        """
        tally = Tally(self)
        tally.add_all(attributions)
        return tally.reduced()


class Tally:
    """The sums over units of one sample so far.

    Args:
        reduction: what is summed.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self._sums, self._rest = {}, {}
        for units, size in reduction.sizes.items():
            self._sums[units] = torch.zeros(
                2, size + 1, dtype=torch.float64, device=reduction.device
            )
            self._rest[units] = torch.zeros(2, dtype=torch.float64, device=reduction.device)

    def add(
        self,
        name: str,
        parts: Iterable[Float[Tensor, "2 rows ..."]],
        rows: Int[Tensor, "some"] | None = None,
    ) -> None:
        """Add a parameter's attributions.

        Args:
            name: of the parameter.
            parts: the attributions and their magnitudes, some rows after the other. What is given
                may be overwritten once the next one is asked for.
            rows: of the parameter that the parts are; all of them, in order, by default. Those of
                the other rows are 0.
        """
        places = self.reduction.places(name)
        sums: dict[tuple[int, ...], list[Tensor]] = {spanned: [] for spanned in places}
        rests: list[Tensor] = []
        for both in parts:
            for spanned, found in sums.items():
                found.append(_summed(both, spanned))
            if not places:
                rests.append(both.flatten(1).sum(1, dtype=_precision(both)))
        # In float64 from here on: there are few numbers left, and millions went into them.
        total = torch.stack(rests).double().sum(0) if rests else None
        missing = set(self._sums)
        for spanned, found in sums.items():
            whole = _joined(found, spanned)
            total = whole.flatten(1).sum(1) if total is None and missing else total
            for place in places[spanned]:
                missing.discard(place.units)
                own = place if rows is None or 0 in spanned else place.of_rows(rows, whole)
                _add(self._sums[place.units], own, whole)
        for units in missing:
            if total is not None:
                self._rest[units] += total

    def add_all(self, attributions: Mapping[str, Tensor]) -> None:
        """Add attributions that are all there, by parameter."""
        for name, values in attributions.items():
            whole = _rows(values)
            parts = (whole[rows] for rows in chunks(whole))
            self.add(name, (torch.stack((part, part.abs())) for part in parts))

    def reduced(self) -> dict[str, Reduced]:
        """Give the sums."""
        found = {}
        for units, sums in self._sums.items():
            of_units = sums.cpu()
            total, rest = (of_units[:, -1] + self._rest[units].cpu()).tolist()
            # The rest was summed in the place past the last unit; here what the units hold joins
            # it.
            total += float(of_units[0, :-1].sum())
            own = Reduced(of_units[1, :-1], of_units[0, :-1], rest, total)
            found[units] = own if self.reduction.gather is None else self.reduction.gather(own)
        return found


def chunks(values: Tensor, most: int = CHUNK) -> Iterator[slice]:
    """Cut a tensor's first dimension: on a CPU into what a cache holds, elsewhere not at all."""
    if values.ndim == 0 or values.device.type != "cpu" or values.numel() <= most:
        yield slice(None)
        return
    step = max(1, most * len(values) // values.numel())
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _add(sums: Float[Tensor, "2 units_and_none"], place: _Place, whole: Tensor) -> None:
    flat = whole.flatten(1)
    if place.first is not None:
        sums[:, place.first : place.first + flat.shape[1]].add_(flat)
        return
    for own, values in zip(sums, flat, strict=True):
        own.index_add_(0, place.targets, values)


def _summed(both: Tensor, spanned: tuple[int, ...]) -> Tensor:
    dimensions = [d + 1 for d in spanned]
    if not dimensions:
        return both.to(torch.float64, copy=True)
    return both.sum(dimensions, keepdim=True, dtype=_precision(both))


def _joined(parts: list[Tensor], spanned: tuple[int, ...]) -> Float[Tensor, "2 ..."]:
    if len(parts) == 1:
        return parts[0].double()
    return torch.stack(parts).double().sum(0) if 0 in spanned else torch.cat(parts, 1).double()


def _precision(values: Tensor) -> torch.dtype | None:
    # A CPU copies the whole tensor for a wider sum; an accelerator does not.
    return torch.float64 if values.device.type != "cpu" else None


def _first(targets: Tensor) -> int | None:
    if not len(targets):
        return None
    is_run = torch.equal(targets, torch.arange(len(targets), device=targets.device) + targets[0])
    return int(targets[0]) if is_run else None


class Sums:
    """Σ_k w_k g_i(α_k) of one sample, or of one summed batch, over the nodes so far.

    An embedding's gradient is kept as the rows that were read, until a dense one joins it.

    Args:
        room: memory for the sums, by name; what it holds is overwritten.
        is_zero: whether the memory is zero already.

    Attributes:
        names: the parameters of which `room` holds a sum.
        rows: sums of embeddings' rows, sparse.
    """

    def __init__(self, room: Attributions, *, is_zero: bool = False) -> None:
        self.room, self.names, self.rows = room, set(room if is_zero else ()), Attributions()

    def add_all(self, gradients: Attributions, weight: float) -> None:
        """Add a weighted gradient of every parameter, all in one call."""
        if not gradients:
            return
        # One call for all: for many small parameters the launches take longer than the sums.
        sums = [self.room[name] for name in gradients]
        if not self.names:
            torch._foreach_zero_(sums)
            self.names.update(gradients)
        torch._foreach_add_(sums, list(gradients.values()), alpha=weight)

    def add(self, name: str, gradient: Tensor, weight: float) -> None:
        """Add one parameter's weighted gradient."""
        # A dense sum takes anything in. Rows stay rows only as long as nothing dense came: a table
        # of words is mostly zeros.
        if name in self.names:
            self.room[name].add_(gradient, alpha=weight)
        elif gradient.is_sparse:
            weighted = gradient if weight == 1 else gradient * weight
            self.rows[name] = self.rows.pop(name) + weighted if name in self.rows else weighted
        else:
            # Written, not added: the memory holds what the last sample left.
            torch.mul(gradient, weight, out=self.room[name])
            self.names.add(name)
            if name in self.rows:
                self.room[name].add_(self.rows.pop(name))

    def left(self) -> list[str]:
        """List the parameters whose sums were not taken yet."""
        return [*self.names, *self.rows]


class Speed:
    """∂γ(α)/∂α at one place of the path, some rows of a parameter after the other.

    Args:
        path: the path.
        alpha: the place; on a piecewise linear path, any place of the piece.
        room: bytes of it that are held; the rest is computed anew each time.
    """

    def __init__(self, path: FittedPath, alpha: float, room: int = 0) -> None:
        self.path, self.alpha, self._room = path, alpha, room
        self._held: Attributions = {}

    def of(self, name: str, rows: slice | Tensor, out: Tensor | None = None) -> Tensor:
        """Give some rows of one parameter's speed, in `out` if it fits there."""
        if name in self._held:
            return self._held[name][rows]
        like = self.path.start[name]
        # Whole parameters are held, the first that fit. Of an embedding few rows are read, so that
        # holding all of it would not pay.
        if like.nbytes > self._room or not isinstance(rows, slice):
            return self.path.derivative_of(name, self.alpha, rows, out if like.ndim else None)
        self._room -= like.nbytes
        self._held[name] = _rows(self.path.derivative_of(name, self.alpha, slice(None)))
        return self._held[name][rows]


class Products:
    """Sums of gradients times the speed: a parameter's attributions.

        A_i = ∂γ(α)_i/∂α Σ_k w_k ∂L(γ(α_k))/∂γ_i

    Args:
        speed: the path's speed, constant over the nodes of the sums.
        chunk: number of entries that are multiplied together on a CPU.
    """

    def __init__(self, speed: Speed, chunk: int = CHUNK) -> None:
        self.speed, self.chunk = speed, chunk
        self._buffers: dict[tuple[object, ...], Tensor] = {}

    def whole(self, name: str, sums: Sums) -> Tensor:
        """Give a parameter's attributions, `(*leading, *shape)`, in the memory of its sum."""
        sums.names.discard(name)
        total = sums.room.pop(name)
        # The speed is broadcast over the samples, so its rows cannot be taken apart with theirs.
        if total.ndim > self.speed.path.start[name].ndim:  # per sample
            return total.mul_(self.speed.of(name, slice(None)))
        rows_of_total = _rows(total)
        for rows in chunks(rows_of_total, self.chunk):
            rows_of_total[rows].mul_(self.speed.of(name, rows))
        return total

    def tally(
        self, tally: Tally, name: str, sums: Sums, last: tuple[Tensor, float] | None = None
    ) -> None:
        """Add a parameter's attributions to the units, without ever holding all of them.

        Args:
            tally: what they are added to.
            name: name of the parameter.
            sums: its weighted gradients so far, which are let go.
            last: the last node's gradient and weight, which need no memory of their own.
        """
        # Joined to the sum first: a sparse gradient cannot be multiplied in chunks of rows.
        if last is not None and last[0].is_sparse:
            sums.add(name, *last)
            last = None
        if last is None and name in sums.rows:
            self._tally_rows(tally, name, sums.rows.pop(name))
            return
        # The last gradient is not added to the sum but multiplied with it in one pass, while both
        # are in the cache.
        before = sums.room[name] if name in sums.names else None
        sums.names.discard(name)
        if last is not None and name in sums.rows:
            gradient, weight = last
            last = (gradient * weight + sums.rows.pop(name), 1.0)
        tally.add(name, self._parts(name, before, last))

    def _tally_rows(self, tally: Tally, name: str, gradient: Tensor) -> None:
        gradient = gradient.coalesce()
        [rows] = gradient.indices()
        speed = self.speed.of(name, rows)
        dtype = torch.promote_types(wide(speed.dtype), gradient.dtype)
        signed = gradient.values().to(dtype) * speed
        tally.add(name, [torch.stack((signed, signed.abs()))], rows)

    def _parts(
        self, name: str, before: Tensor | None, last: tuple[Tensor, float] | None
    ) -> Iterator[Float[Tensor, "2 ..."]]:
        """Give the attributions and their magnitudes, some rows after the other."""
        [whole, *sums] = (_rows(t) for t in (last and last[0], before) if t is not None)
        for rows in chunks(whole, self.chunk):
            signed, magnitudes = both = self._buffer(name, whole[rows])
            speed = self.speed.of(name, rows, magnitudes)
            # Three ways to the same product, so that each entry is read and written once.
            if last is None or (not sums and last[1] == 1):
                torch.mul(whole[rows], speed, out=signed)
            elif sums:
                torch.add(sums[0][rows], whole[rows], alpha=last[1], out=signed).mul_(speed)
            else:
                torch.mul(whole[rows], last[1], out=signed).mul_(speed)
            torch.abs(signed, out=magnitudes)
            yield both

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        """Give memory for some rows' products and their magnitudes, in the rows' own layout."""
        start = self.speed.path.start[name].dtype
        dtype = torch.promote_types(wide(start), like.dtype)
        # Torch's own allocator holds memory on an accelerator; on a CPU it goes back to the system.
        if like.device.type != "cpu":
            return _pair(like, dtype)
        key = like.shape, like.stride(), dtype
        if key not in self._buffers:
            if len(self._buffers) == BUFFERS:
                self._buffers.clear()
            self._buffers[key] = _pair(like, dtype)
        return self._buffers[key]


def _rows(values: Tensor) -> Tensor:
    return values if values.ndim else values[None]


def _pair(like: Tensor, dtype: torch.dtype) -> Float[Tensor, "2 ..."]:
    """Make two tensors in one, each laid out in memory as a given one."""
    strides = like.stride()
    # Channels-last gradients stay so: a product of two layouts reads one out of order.
    order = sorted(range(like.ndim), key=lambda d: (-strides[d], d))
    pair = torch.empty([2, *(like.shape[d] for d in order)], dtype=dtype, device=like.device)
    return pair.permute(0, *(order.index(d) + 1 for d in range(like.ndim)))

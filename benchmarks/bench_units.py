"""Heads and neurons of every family of transformers and timm, planted and switched off.

One unit of each kind of block is changed at a time. With its rows at zero, what reads it must not
matter to the model's output; with its rows on, it must. With what reads it at zero, its rows must
not matter; where a norm inside the block couples its units by a common scale, that is asked with
the norm left out. A block that the reducers do not know is refused, and named.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import unit_families as made
from benchmarks.benchmark import say, start
from paramattr import UnitIndex
from paramattr.errors import UnitError
from paramattr.units.grid import UNKNOWN, asked_of
from paramattr.units.layouts import by_parameter
from paramattr.units.reducers import get_reducer

TOLERANCE = 1e-7
"""Of the output's largest entry, in float64."""
CONSTANT = 1e-5
"""Of a unit's effect, what may be left of it when it is off: xIELU is not quite 0 at 0."""
SHARED = "relative_attention_bias.weight"
"""T5's: the block that holds it hands its bias on to all blocks."""


@dataclass(frozen=True)
class Config:
    libraries: tuple[str, ...] = ("transformers", "timm")
    only: tuple[str, ...] = ()
    units: tuple[str, ...] = ("attention_head", "neuron")


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Check every family; a row each and kind of unit."""
    torch.set_num_threads(1)
    rows, skipped = [], dict[str, str]()
    lists = {
        "transformers": list(dict.fromkeys([*made.families(), *made.VARIANTS])),
        "timm": made.TIMM.split(),
    }
    builds = {"transformers": made.transformers_model, "timm": made.timm_model}
    for library in config.libraries:
        for name in lists[library]:
            if config.only and name not in config.only:
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model, call = builds[library](name)
            except Exception as error:
                skipped[name] = f"{type(error).__name__}: {error}".split("\n")[0][:100]
                continue
            own = {"library": library, "family": name}
            rows += [say({**own, **check(model, call, units)}) for units in config.units]
        yield summary(rows, skipped)


def summary(rows: list[dict[str, Any]], skipped: dict[str, str]) -> dict[str, Any]:
    """Count what was checked."""
    totals = {n: sum(row[n] for row in rows) for n in ("blocks", "checked", "idle", "wrong")}
    known = {row["family"] for row in rows if row["checked"]}
    return {"families": len(known), **totals, "rows": rows, "skipped": skipped}


def check(model: nn.Module, call: made.Call, units: str) -> dict[str, Any]:
    """Plant and switch off units of every kind of block of one model.

    Returns:
        The blocks and units checked; how many were idle, with no effect either way; how many were
        wrong, and why; which blocks a norm couples; the classes of the blocks that are refused.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused = sorted(_refused(model, units))
        try:
            index = UnitIndex.of(model, units)
        except UnitError:
            index = None
    found = {"units": units, "blocks": 0, "checked": 0, "idle": 0, "wrong": 0}
    why, coupled = list[str](), set[str]()
    for block in _blocks(model, index) if index else ():
        bench = Bench(model, call, index, block)
        found["blocks"] += 1
        for unit in bench.some():
            outcome = bench.outcome(unit)
            found["checked"] += outcome != "idle"
            found["idle"] += outcome == "idle"
            if outcome == "coupled":
                coupled.add(bench.kind)
            elif outcome not in ("right", "idle"):
                found["wrong"] += 1
                why.append(f"{bench.kind} {block} {unit}: {outcome}")
    return {**found, "why": why, "coupled": sorted(coupled), "refused": refused}


class Bench:
    """One block of a model, whose units are changed."""

    def __init__(self, model: nn.Module, call: made.Call, index: UnitIndex, block: str) -> None:
        self._model, self._call, self._index = model, call, index
        self._first, self._shape = index.groups[block]
        self._count = int(torch.Size(self._shape).numel())
        self.kind = type(dict(model.named_modules()).get(block, model)).__name__
        self._block = dict(model.named_modules()).get(block, model)
        layouts = by_parameter(model)
        self._rows, self._columns = list[str](), list[str]()
        for name, labels in index.labels.items():
            if name.endswith(SHARED):
                continue
            if bool(((labels >= self._first) & (labels < self._first + self._count)).any()):
                layout = layouts.get(name)
                along = [d for d, size in enumerate(labels.shape) if size > 1]
                reads = layout is not None and layout.input in along
                (self._columns if reads else self._rows).append(name)
        self._before = self._output()

    def some(self) -> list[int]:
        """List the units that are changed: one of the middle and the last."""
        return sorted({self._count // 2, self._count - 1})

    def outcome(self, unit: int) -> str:
        """Say whether a unit is right, or what is wrong with it."""
        if not self._rows or not self._columns:
            return "no rows" if not self._rows else "no columns"
        off = dict.fromkeys(self._rows, 0.0)
        noise = dict.fromkeys(self._columns)
        with self._changed(unit, noise):
            on = self._distance(self._output(), self._before)
        with self._changed(unit, off):
            silent = self._output()
        with self._changed(unit, {**off, **noise}):
            after = self._distance(self._output(), silent)
        if on < TOLERANCE:
            return "idle"
        if not after < CONSTANT * on:
            return f"its columns matter when its rows are off: {after:.2g} of {on:.2g}"
        if self._unread(unit) < TOLERANCE:
            return "right"
        with _without_norms(self._block):
            return "coupled" if self._unread(unit) < TOLERANCE else "its rows reach other columns"

    def _unread(self, unit: int) -> float:
        off = dict.fromkeys(self._columns, 0.0)
        with self._changed(unit, off):
            silent = self._output()
        with self._changed(unit, {**off, **dict.fromkeys(self._rows)}):
            return self._distance(self._output(), silent)

    @contextmanager
    def _changed(self, unit: int, values: dict[str, float | None]) -> Iterator[None]:
        chosen = torch.arange(len(self._index)) == self._first + unit
        draw = torch.Generator().manual_seed(unit)
        kept = {name: self._model.get_parameter(name).data for name in values}
        for name, value in values.items():
            own = self._model.get_parameter(name)
            noise = torch.randn(own.shape, generator=draw, dtype=own.dtype)
            new = own + noise if value is None else torch.full_like(own, value)
            own.data = torch.where(self._index.mask(name, chosen), new, own)
        try:
            yield
        finally:
            for name, value in kept.items():
                self._model.get_parameter(name).data = value

    @torch.no_grad()
    def _output(self) -> Tensor:
        torch.manual_seed(0)
        return torch.cat([t.double().flatten() for t in made.tensors(self._call(self._model))][:1])

    def _distance(self, one: Tensor, other: Tensor) -> float:
        size = float(self._before.abs().max())
        return float((one - other).abs().max()) / max(size, 1e-30)


@contextmanager
def _without_norms(block: nn.Module) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(lambda module, args, output: args[0])
        for module in block.modules()
        if module is not block and "norm" in type(module).__name__.lower()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(model: nn.Module, index: UnitIndex) -> list[str]:
    """Pick the first and the last block of each class."""
    modules, by_class = dict(model.named_modules()), dict[str, list[str]]()
    for block in index.groups:
        kind = type(modules.get(block, model)).__name__
        by_class.setdefault(kind, []).append(block)
    return [b for found in by_class.values() for b in dict.fromkeys((found[0], found[-1]))]


def _refused(model: nn.Module, units: str) -> set[str]:
    asked, modules = asked_of(get_reducer(units), model), dict(model.named_modules())
    found = set()
    for name, parameter in model.named_parameters():
        path = name.rpartition(".")[0]
        if asked(name, parameter, modules[path]) is UNKNOWN:
            found.add(type(modules[path.rpartition(".")[0]]).__name__)
    return found


if __name__ == "__main__":
    start(Config, run)

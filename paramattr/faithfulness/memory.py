"""Measurements of edited models: each made once, and resumed after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.buffers import moving_buffers
from paramattr.errors import CheckpointError, ObjectiveError, RankError
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished
from paramattr.identity import likeness
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.ranks import Ranks
from paramattr.surgery.edits import holding, inserted, substituted
from paramattr.units.selection import Selection

Measure = Callable[[nn.Module], Tensor]
"""A function of a model that gives one number per sample `(B,)`, such as a loss."""

EDITS = {"masking": substituted, "insertion": inserted}
"""Edits of a model: its top units become the baseline's, or all but its top units do."""


class Memory:
    """The measurements of each selection's edit, kept in an optional file.

    Args:
        model: the target, edited in place during each measurement.
        baseline: the model that the values come from.
        measures: functions of the model, each giving one number per sample.
        edit: a key of `EDITS`.
        checkpoint: the file; with None, nothing is kept.
        stamp: what else tells the file apart, such as the rank that writes it.

    Raises:
        CheckpointError: if the file was made with other models, measures or data.
        ObjectiveError: if a measure does not give one finite number per sample.
    """

    def __init__(
        self,
        model: nn.Module,
        baseline: Baseline,
        measures: Sequence[Measure],
        edit: str,
        checkpoint: str | Path | None,
        stamp: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.baseline, self.measures, self.edit = model, baseline, measures, edit
        other = align(model, baseline) | moving_buffers(model, baseline)
        self.kept = self._named("unedited", self.measured(nullcontext()))
        stamp = dict(stamp or {})
        if checkpoint is not None:
            models = [named_parameters(model), dict(model.named_buffers()), other]
            stamp |= {"kind": "curves", "edit": edit, "models": fingerprint(models)}
            # Measures cannot be compared as code, so their values on the two models identify them.
            self.kept |= self._named("baseline", self.measured(holding(model, other)))
        self.file = Unfinished(checkpoint, stamp)
        if self.file.tensors:
            tensors = self.file.tensors
            alike = all(torch.equal(tensors.get(k, v[:0]), v) for k, v in self.kept.items())
            if not alike:
                raise CheckpointError(
                    f"checkpoint {checkpoint} was made with other measures or data: give another "
                    "file, or remove this one"
                )
            self._check(tensors)
            self.kept = dict(tensors)
        self.file.save(self.kept)

    def shared(
        self, edits: Iterable[tuple[Selection, str]], ranks: Ranks
    ) -> Iterator[tuple[Selection, str]]:
        """Give the edits on, after each rank has measured its share of them.

        Args:
            edits: selections, each with the digest of its unit index.
            ranks: the processes; one alone measures nothing ahead.

        Raises:
            RankError: if another rank fails, or measures other models, rankings or data.
        """
        if ranks.size == 1:
            yield from edits
            return
        every = list(edits)
        names = list(dict.fromkeys(self._name(*one) for one in every))
        ranks.compare("the settings", likeness(self.edit))
        ranks.compare("the rankings", fingerprint([{name: torch.empty(0) for name in names}]))
        mine = set(names[ranks.rank :: ranks.size])
        for selection, units in every:
            if self._name(selection, units) in mine:
                ranks.check()
                self.of(selection, units)
        ranks.meet()
        of_ranks = ranks.gathered(self.kept)
        for other, kept in enumerate(of_ranks):
            for name in self._named("unedited", self.measures):
                own = self.kept[name]
                if own.shape != kept[name].shape or not torch.allclose(own, kept[name], rtol=1e-4):
                    raise RankError(
                        f"a measure of the unedited model differs between rank {ranks.rank} and "
                        f"rank {other}: expected the same models, measures and data on every rank; "
                        "give shuffles the same seed"
                    )
        for kept in of_ranks:
            self.kept = {**kept, **self.kept}
        yield from every

    def of(self, selection: Selection, units: str) -> list[Tensor]:
        """Return every measure's values on one edit; `units` is the digest of its unit index."""
        name = self._name(selection, units)
        if f"{name} 0" not in self.kept:
            edited = EDITS[self.edit](self.model, self.baseline, selection)
            measured = self._named(name, self.measured(edited))
            for key, value in measured.items():
                samples = len(self.kept[f"unedited {key.split()[-1]}"])
                if len(value) != samples:
                    raise ObjectiveError(
                        f"a measure gave {len(value)} numbers on this edit and {samples} on the "
                        "unedited model: expected one number per sample, always of the same samples"
                    )
            self.kept.update(measured)
            self.file.save(self.kept)
        return [self.kept[f"{name} {number}"] for number in range(len(self.measures))]

    def measured(self, edited: AbstractContextManager[Any]) -> list[Tensor]:
        """Give what every measure gives inside an edit; nothing is kept."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with undisturbed(self.model), edited, torch.no_grad():
                return [_checked(measure(self.model)) for measure in self.measures]
        finally:
            for buffer, copy in buffers:
                buffer.copy_(copy)

    def _check(self, tensors: dict[str, Tensor]) -> None:
        for key, value in tensors.items():
            like = self.kept.get(f"unedited {key.split(' ')[-1]}")
            self.file.check({key: value}, {} if like is None else {key: like})

    def _name(self, selection: Selection, units: str) -> str:
        if self.edit == "masking" and not len(selection):
            return "unedited"
        return f"{units} {fingerprint([{'': selection.chosen}])}"

    def _named(self, name: str, values: Sequence[Any]) -> dict[str, Any]:
        return {f"{name} {number}": value for number, value in enumerate(values)}


def _checked(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ObjectiveError(
            f"the measure gave {shape}: expected a tensor (samples,), one number per sample; "
            "leave out the mean over samples"
        )
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise ObjectiveError(
            f"the measure is {values[bad].item()} for sample {bad}: expected a finite number"
        )
    return values.detach().double().cpu()

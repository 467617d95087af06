"""What was measured of each edited model: once, and resumed after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.buffers import moving_buffers
from paramattr.checkpoints import fingerprint
from paramattr.errors import CheckpointError, ObjectiveError
from paramattr.parameters import Baseline, align, named_parameters
from paramattr.resume import Unfinished
from paramattr.runtime.isolation import undisturbed
from paramattr.surgery.edits import holding, inserted, substituted
from paramattr.units.selection import Selection

Measure = Callable[[nn.Module], Tensor]
"""A model to one number per sample `(B,)`: a loss, or a distance from the target's output."""

EDITS = {"masking": substituted, "insertion": inserted}
"""What is done to the model: its top units become the baseline's, or the baseline's become its."""


class Memory:
    """What each selection's edit measured, kept in a file where one is given.

    Args:
        model: the target, edited in place for the length of each measurement.
        baseline: where the values come from.
        measures: functions of the model, each to one number per sample.
        edit: of `EDITS`.
        checkpoint: the file; None keeps nothing.

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
    ) -> None:
        self.model, self.baseline, self.measures, self.edit = model, baseline, measures, edit
        other = align(model, baseline) | moving_buffers(model, baseline)
        self.kept = self._named("unedited", self.measured(nullcontext()))
        stamp: dict[str, Any] = {}
        if checkpoint is not None:
            models = [named_parameters(model), dict(model.named_buffers()), other]
            stamp = {"kind": "curves", "edit": edit, "models": fingerprint(models)}
            # Measures cannot be read from outside: their numbers on the two models tell them by.
            self.kept |= self._named("baseline", self.measured(holding(model, other)))
        self.file = Unfinished(checkpoint, stamp)
        if self.file.tensors:
            found = self.file.tensors
            alike = all(torch.equal(found.get(k, v[:0]), v) for k, v in self.kept.items())
            if not alike:
                raise CheckpointError(
                    f"checkpoint {checkpoint} was made with other measures or data: give another "
                    "file, or remove this one"
                )
            self.kept = dict(found)
        self.file.save(self.kept)

    def of(self, selection: Selection, units: str) -> list[Tensor]:
        """Give what every measure gives on one edit; `units` is the digest of its unit index."""
        name = f"{units} {fingerprint([{'': selection.chosen}])}"
        if self.edit == "masking" and not len(selection):
            name = "unedited"
        if f"{name} 0" not in self.kept:
            edited = EDITS[self.edit](self.model, self.baseline, selection)
            measured = self._named(name, self.measured(edited))
            for key, value in measured.items():
                samples = len(self.kept[f"unedited {key.split()[-1]}"])
                if len(value) != samples:
                    raise ObjectiveError(
                        f"a measure gave {len(value)} numbers after another edit gave {samples}: "
                        "expected one per sample, always of the same samples"
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
            for buffer, kept in buffers:
                buffer.copy_(kept)

    def _named(self, name: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"{name} {number}": value for number, value in enumerate(values)}


def _checked(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ObjectiveError(
            f"the measure gave {found}: expected a tensor (samples,), one number per sample; "
            "leave out the mean over samples"
        )
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise ObjectiveError(
            f"the measure is {values[bad].item()} for sample {bad}: expected a finite number"
        )
    return values.detach().double().cpu()

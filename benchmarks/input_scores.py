"""The filters' scores for each input alone, kept in a folder: no variant needs a new gradient."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.data.photographs import Photographs, with_both
from blind_sr.models.pairs import Pair
from blind_sr.setting import Setting
from paramattr import FAIG, self_reference, squared_error
from paramattr.files.reading import load_tensors, save_state_dict
from paramattr.files.resume import check_stamp
from paramattr.objectives import Objective, absolute_error

Images = Float[Tensor, "1 3 h w"]
Table = Float[Tensor, "inputs filters"]


def log_error(output: Images, truth: Images) -> Float[Tensor, "1"]:
    """Take the logarithm of the squared error, per sample: PSNR but for a factor."""
    return squared_error(output, truth).log()


OBJECTIVES: Mapping[str, Objective] = {
    "truth": squared_error,
    "truth L1": absolute_error,
    "truth log": log_error,
    "self": self_reference,
}
"""What an input's output is compared with, and how, to the objective."""


@dataclass(frozen=True)
class InputScores:
    """Scores of each input of a folder of photographs.

    Attributes:
        setting: pair, crop, rule and machine.
        cache: folder that keeps them; a run that was cut resumes at the kind that it was at.
    """

    setting: Setting
    cache: Path

    @cached_property
    def pair(self) -> Pair:
        """The two networks."""
        return self.setting.load_pair()

    def photographs(self, folder: Path) -> Photographs:
        """Load a folder's photographs, in all four conditions."""
        return with_both(replace(self.setting, images=folder).load_photographs())

    def table(self, reference: str, folder: Path, kind: str, *, signed: bool = False) -> Table:
        """Score every input of a kind alone, or read what an earlier run scored.

        Args:
            reference: of `OBJECTIVES`.
            folder: of photographs.
            kind: of `labels.KINDS`.
            signed: each filter's sum with signs, instead of that of the magnitudes.
        """
        name = f"{self.setting.network} {reference} {folder.name} {kind}".replace(" ", "_")
        file = self.cache / f"{name}.safetensors"
        if not file.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            photographs = self.photographs(folder)
            tables = self._scored(reference, photographs, kind)
            save_state_dict(file, tables, self._stamp(reference, photographs.names))
        tables, stamp = load_tensors(file)
        check_stamp(stamp, self._stamp(reference, stamp.get("names", [])), f"file {file}")
        return tables["signed" if signed else "values"]

    def _scored(self, reference: str, photographs: Photographs, kind: str) -> dict[str, Tensor]:
        objective = OBJECTIVES[reference]
        faig = FAIG(
            self.pair.target, self.pair.baseline, objective=objective, dtype=self.pair.mixed
        )
        rows = []
        for low, high in photographs.pairs(kind):
            sample = low if objective is self_reference else (low, high)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "barrier")  # see `blind_sr.classify.ranking`
                scores = faig.score([sample], reducer="kernel", n_steps=self.setting.steps)
            rows.append((scores.values.float(), scores.signed.float()))
        values, signed = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"values": values, "signed": signed}

    def _stamp(self, reference: str, names: list[str]) -> dict[str, object]:
        own = {**self.setting.content, "weights": self.pair.digest}
        return {**own, "reference": reference, "names": names}

    def errors(self, folder: Path, kind: str) -> dict[str, Float[Tensor, "inputs"]]:
        """Measure each input's squared errors, summed over the output.

        Returns:
            `"left"` of the target to the ground truth, and `"moved"` of the baseline to the
            target.
        """
        photographs, found = self.photographs(folder), []
        with torch.no_grad():
            for low, high in photographs.pairs(kind):
                target, baseline = self.pair.target(low), self.pair.baseline(low)
                pairs = ((target, high), (baseline, target))
                found.append(torch.cat([squared_error(*pair) for pair in pairs]))
        left, moved = torch.stack(found, 1)
        return {"left": left, "moved": moved}

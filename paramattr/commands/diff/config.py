"""The settings of one comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paramattr.errors import ParamattrError

RANKS = ("magnitude", "sign")
"""Names of what units are ranked by."""


@dataclass(frozen=True)
class Config:
    """The settings of one comparison of two models.

    Attributes:
        base: folder or state dict of the model that was tuned.
        tuned: folder (of a model or of an adapter) or state dict of what came of it.
        data: file of JSON lines `{"text", "label"?, "condition"?}`.
        units: names of reducers; layers, heads and neurons, where the model has them, if empty.
        objective: name in `OBJECTIVES` of `paramattr.commands.diff.material`, or
            `package.module:function`; by default what the model is for: `"next-token"` for causal
            language models, else `"classification"`.
        out: folder of what is written; None writes nothing.
        model: `package.module:function` that builds the model of two state dicts.
        batches: `package.module:function` that gives a loader, or loaders by condition.
        adapter: form in which an adapter is attributed to, `"merged"` or `"factors"`, as
            `paramattr.huggingface.load_pair` takes it.
        steps: nodes of the rule on the path; by default as many of 2 to 32 as it takes for the
            attributions to add up.
        share: share of the units that is masked.
        draws: number of random selections that the masked units are compared with.
        batch_size: number of texts that run together where no gradient is taken.
        max_tokens: largest number of tokens per text; longer texts are cut.
        device: device to compute on.
        dtype: precision of the gradients' matrix products, such as `"bfloat16"`.
        rank: order of the units: by the mean `"magnitude"` of the attributions, or by their
            `"sign"`, the mean itself: units come first whose change lowered the objective.
        curve: file that `BezierPath.save` wrote: the path, in place of the straight line.
        at: place on the path whose values the masked units take; 1 is the base.

    Raises:
        ParamattrError: for a combination that cannot be.
    """

    base: Path
    tuned: Path
    data: Path | None = None
    units: tuple[str, ...] = ()
    objective: str | None = None
    out: Path | None = None
    model: str | None = None
    batches: str | None = None
    adapter: str = "merged"
    steps: int | None = None
    share: float = 0.01
    draws: int = 2
    batch_size: int = 16
    max_tokens: int = 128
    device: str | None = None
    dtype: str | None = None
    curve: Path | None = None
    at: float = 1.0
    rank: str = "magnitude"

    def __post_init__(self) -> None:
        if (self.data is None) == (self.batches is None):
            raise ParamattrError(
                "data comes from one of two: give --data FILE.jsonl for folders of Hugging Face, "
                "or --batches package.module:function with --model"
            )
        if (self.model is None) != (self.batches is None):
            raise ParamattrError("--model and --batches go together: give both, or neither")
        for label in ("steps", "draws", "batch_size", "max_tokens"):
            value = getattr(self, label)
            if value is not None and value < 1:
                raise ParamattrError(f"--{label.replace('_', '-')} is below 1: expected 1 or more")
        if self.rank not in RANKS:
            raise ParamattrError(
                f"--rank {self.rank!r} is not known: expected {' or '.join(RANKS)}"
            )
        if not 0 < self.share <= 1:
            raise ParamattrError(
                f"the share is {self.share}: expected one above 0 and up to 1, such as 0.01"
            )
        if not 0 < self.at <= 1:
            raise ParamattrError(
                f"--at {self.at:g} is no place on the path: expected one above 0 (the tuned model) "
                "and up to 1 (the base)"
            )
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ParamattrError(f"--out {self.out} is a file: expected a folder, or none yet")
        if len(set(self.units)) != len(self.units):
            raise ParamattrError(f"units {', '.join(self.units)}: expected each kind once")

    def shown(self) -> dict[str, Any]:
        """Give the settings in kinds that JSON knows."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(self).items()
        }

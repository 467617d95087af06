"""Everything that decides the outcome of one stage of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paramattr.errors import ParamattrError

STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "baseline": ("clean", ("clean",)),
    "target": ("mixed", ("clean", "blur", "noise", "both")),
    "three": ("three", ("clean", "blur", "noise", "jpeg")),
    "blur": ("blur", ("blur",)),
    "noise": ("noise", ("noise",)),
}
"""Stage of training: what is done to its inputs, and the conditions it is validated on.

The last two are retraining on one degradation alone.
"""

PRECISIONS = ("bfloat16", "float32")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of one stage of training.

    Attributes:
        network: `"srresnet"`, `"srcnn"` or `"swin"`.
        stage: of `STAGES`: `"baseline"` (clean input), `"target"` (blur and noise, each with
            probability 0.5), `"three"` (JPEG too, each with probability 0.4), or retraining on
            `"blur"` or `"noise"` alone.
        iterations: optimiser steps.
        learning_rate: the peak of the one-cycle schedule.
        batch_size: patches per step.
        patch: side of a high-resolution patch in pixels, even.
        ema: decay of the averaged weights, which are what is kept; less in the first iterations,
            (1 + n) / (10 + n), so that a short run is not an average of its beginning.
        seed: of the first weights and of every patch.
        precision: `"bfloat16"` (autocast) or `"float32"`; see `fast_precision`.
        device: where to train.
        name: of the files; `NETWORK_STAGE` where it is empty.
        selection: digest of the entries that alone are trained; empty for all.

    Raises:
        ParamattrError: for a rate, patch or precision that cannot be.
    """

    network: str
    stage: str
    iterations: int
    learning_rate: float
    batch_size: int = 16
    patch: int = 64
    ema: float = 0.999
    seed: int = 0
    precision: str = "float32"
    device: str = "cpu"
    name: str = ""
    selection: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise ParamattrError(
                f"learning rate is {self.learning_rate:g}: expected a number above 0, such as 2e-4"
            )
        if self.patch % 2:
            raise ParamattrError(
                f"patch is {self.patch}: expected an even number of pixels, such as 64"
            )
        if self.precision not in PRECISIONS:
            raise ParamattrError(
                f"precision {self.precision!r} is not known: expected auto, {', '.join(PRECISIONS)}"
            )

    @property
    def stem(self) -> str:
        """What the files are called."""
        return self.name or f"{self.network}_{self.stage}"


def fast_precision(device: str) -> str:
    """Name the faster training precision of a device: bfloat16 where its hardware computes in it.

    A CPU without AVX-512 emulates bfloat16, many times slower than float32.
    """
    if torch.device(device).type == "cpu":
        return "bfloat16" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "float32"
    return "bfloat16"

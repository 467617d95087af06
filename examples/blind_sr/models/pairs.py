"""Pairs of networks: a baseline, and the target that was fine-tuned from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from blind_sr.labels import PAIR_LABELS
from blind_sr.models.networks import load
from paramattr.errors import CheckpointError, ParamattrError
from paramattr.files.reading import fingerprint

BUNDLED_WEIGHTS = Path(__file__).parent.parent / "weights"
CHANNELS_LAST_BELOW = 56
"""Side of a low-resolution input from which on the usual layout is as fast on a CPU, or faster:
at 64 by 2% to 30%, by network and threads; below, channels-last gains up to a quarter. In bfloat16
it gains a quarter to two thirds at every size."""


@dataclass(frozen=True)
class Pair:
    """A baseline (restores clean input only) and the target fine-tuned from it.

    Attributes:
        network: what both are.
        baseline: from before the fine-tuning.
        target: from after it.
        mixed: half precision that attribution computes in (`FAIG(dtype=...)`); None for the
            networks' own.
    """

    network: str
    baseline: nn.Module
    target: nn.Module
    mixed: torch.dtype | None = None

    @property
    def digest(self) -> str:
        """What tells these weights from any other, in whatever precision they were loaded."""
        models = (self.baseline, self.target)
        return fingerprint([{n: v.float() for n, v in m.state_dict().items()} for m in models])


def load_pair(
    network: str,
    weights: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    crop: int = 64,
) -> Pair:
    """Load `NETWORK_baseline` and `NETWORK_target` from a folder, or those that are bundled.

    Args:
        network: `"srresnet"`, `"srcnn"` or `"swin"`.
        weights: folder that holds the two files, as safetensors or as the authors' `.pth`.
        device: where to.
        dtype: precision to compute in. Half precisions are for gradients alone: the networks then
            are float32, and so is what they restore.
        crop: side of the low-resolution inputs that are to come, 0 for whole photographs: how the
            weights lie in memory is chosen by it, which changes the time and the last bits alone.

    Raises:
        CheckpointError: if a file is missing or does not fit the network.
    """
    half = dtype.itemsize < torch.float32.itemsize
    wide = torch.device(device).type == "cpu" and not 0 < crop < CHANNELS_LAST_BELOW
    layout = torch.contiguous_format if wide and not half else torch.channels_last
    models = []
    for stage in ("baseline", "target"):
        found = weights_file(network, stage, weights)
        if found is None:
            folder = BUNDLED_WEIGHTS if weights is None else weights
            raise CheckpointError(
                f"weights {network}_{stage} are not in {folder}: expected {network}_baseline and "
                f"{network}_target in that folder; train them with 'paramattr blindsr train "
                f"--network {network}', or give their folder (--weights)"
            )
        model = load(network, found).to(device, torch.promote_types(dtype, torch.float32))
        model = model.eval().requires_grad_(False)
        models.append(model.to(memory_format=layout))  # type: ignore[call-overload]
    baseline, target = models
    return Pair(network, baseline, target, dtype if half else None)


def with_target(pair: Pair, file: str | Path) -> Pair:
    """Take another target, of a file, that was fine-tuned from the same baseline.

    Raises:
        CheckpointError: if the file is missing or does not fit the network.
    """
    like = next(pair.target.parameters())
    target = load(pair.network, file).to(like.device, like.dtype).eval().requires_grad_(False)
    return replace(pair, target=target.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def weights_file(network: str, stage: str, weights: str | Path | None) -> Path | None:
    """Find one file of a pair, as `load_pair` does; None if it is not there."""
    folder = BUNDLED_WEIGHTS if weights is None else Path(weights)
    files = (folder / f"{network}_{stage}{suffix}" for suffix in (".safetensors", ".pth"))
    return next((file for file in files if file.is_file()), None)


def networks_of(weights: Path | None) -> list[str]:
    """List the paper's networks whose pair a folder holds, or is bundled.

    Raises:
        ParamattrError: if it holds none.
    """
    found = [network for network in PAIR_LABELS if weights_file(network, "target", weights)]
    if not found:
        raise ParamattrError(
            f"folder {weights or BUNDLED_WEIGHTS} holds no pair of the study: expected "
            "srresnet_baseline and srresnet_target; train them with 'paramattr blindsr train'"
        )
    return found

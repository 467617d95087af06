"""High-resolution photographs and their low-resolution inputs in each condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.data.degradations import BLUR_RADIUS, CONDITIONS, SCALE, Degradation, degrade
from blind_sr.data.images import bundled_files, centre_crop, check_size, find_images, read_image
from blind_sr.labels import INPUTS


@dataclass(frozen=True)
class Photographs:
    """High-resolution photographs and their low-resolution inputs in each condition.

    Attributes:
        names: file names, without their endings where that tells them apart.
        high: each `(1, 3, 2H, 2W)` in [0, 1].
        low: condition to inputs, each `(1, 3, H, W)`.
    """

    names: list[str]
    high: list[Float[Tensor, "1 3 h w"]]
    low: dict[str, list[Float[Tensor, "1 3 h2 w2"]]]

    def pairs(self, condition: str) -> list[tuple[Tensor, Tensor]]:
        """Give the batches of one image that attribution streams: input and truth."""
        return list(zip(self.low[condition], self.high, strict=True))

    def only(self, number: int) -> Photographs:
        """Give one of them."""
        low = {condition: [inputs[number]] for condition, inputs in self.low.items()}
        return Photographs([self.names[number]], [self.high[number]], low)

    def first(self, limit: int) -> Photographs:
        """Give the first by name; all with 0."""
        chosen = slice(limit or None)
        low = {condition: inputs[chosen] for condition, inputs in self.low.items()}
        return Photographs(self.names[chosen], self.high[chosen], low)


def load_photographs(
    images: str | Path | None = None,
    *,
    crop: int = 64,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Photographs:
    """Read photographs and degrade them in the three conditions of the analysis.

    Args:
        images: a folder; by default the colour photographs that scikit-image ships with.
        crop: side in pixels of the middle of the low-resolution image that is used; 0 for all.
        seed: of the noise, which depends on it and the photograph's place in the folder.
        device: where to.
        dtype: precision to compute in; float32 for the half ones, as in `pairs.load_pair`.

    Raises:
        DataError: for a missing or empty folder, or an unreadable or too small photograph.
    """
    files = bundled_files() if images is None else find_images(images)
    dtype = torch.promote_types(dtype, torch.float32)
    high, low = [], {condition: [] for condition in INPUTS}  # type: ignore[var-annotated]
    for number, file in enumerate(files):
        image = read_image(file)
        if crop:
            image = centre_crop(image, SCALE * crop, name=file)
        else:
            check_size(image, BLUR_RADIUS + SCALE, file)
            image = image[:, : image.shape[1] // SCALE * SCALE, : image.shape[2] // SCALE * SCALE]
        truth = image[None].float() / 255
        high.append(truth.to(device, dtype))
        for condition in INPUTS:
            noise = torch.Generator().manual_seed(1_000_003 * seed + number)
            low[condition].append(degrade(truth, condition, noise).to(device, dtype))
    stems = [file.stem for file in files]
    alike = len(set(stems)) < len(stems)
    return Photographs([file.name for file in files] if alike else stems, high, low)


def with_both(photographs: Photographs, *, limit: int = 0, seed: int = 0) -> Photographs:
    """Degrade photographs in the fourth way, blurry and noisy at once, too.

    Args:
        photographs: of `load_photographs`.
        limit: how many of them, the first by name; 0 for all.
        seed: of the noise.
    """
    return with_conditions(photographs.first(limit), {"both": CONDITIONS["both"]}, seed=seed)


def with_conditions(
    photographs: Photographs, conditions: Mapping[str, Degradation], *, seed: int = 0
) -> Photographs:
    """Degrade photographs in other ways too.

    Args:
        photographs: of `load_photographs`.
        conditions: name to degradation.
        seed: of the noise, which depends on it and the photograph's number, as in
            `load_photographs`.
    """
    low = dict(photographs.low)
    for name, degradation in conditions.items():
        draws = (
            torch.Generator().manual_seed(1_000_003 * seed + k)
            for k in range(len(photographs.high))
        )
        low[name] = [
            degrade(truth.float().cpu(), degradation, draw).to(truth)
            for truth, draw in zip(photographs.high, draws, strict=True)
        ]
    return Photographs(photographs.names, photographs.high, low)

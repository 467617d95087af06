"""Random patches of photographs, as training draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from blind_sr.data.degradations import (
    BLUR_RADIUS,
    add_noise,
    blur_valid,
    downsample,
    jpeg,
    to_8bit,
)
from blind_sr.data.images import bundled_files, centre_crop, check_size, find_images, read_image
from paramattr.errors import DataError, ParamattrError

DEGRADATIONS: dict[str, tuple[float, float, float]] = {
    "clean": (0.0, 0.0, 0.0),
    "mixed": (0.5, 0.5, 0.0),
    "three": (0.4, 0.4, 0.4),
    "blur": (1.0, 0.0, 0.0),
    "noise": (0.0, 1.0, 0.0),
}
"""What training does to its inputs: the probability of blur, noise and JPEG, independently."""

HELD_OUT = 8
VALIDATION_CROP = 128


class Patches:
    """Random patches of photographs with their low-resolution inputs.

    A patch is cut with a border, so that blurring it equals blurring the whole photograph. The
    draw depends on the seed and the iteration alone: a resumed run sees the same patches.

    Args:
        photographs: 8-bit, no side shorter than `side`.
        side: of a high-resolution patch in pixels, even.
        batch_size: patches per batch.
        seed: of every draw.
        degradation: of `DEGRADATIONS`.

    Raises:
        ParamattrError: for an unknown degradation.
    """

    def __init__(
        self,
        photographs: Sequence[UInt8[Tensor, "3 h w"]],
        *,
        side: int,
        batch_size: int,
        seed: int,
        degradation: str,
    ) -> None:
        if degradation not in DEGRADATIONS:
            raise ParamattrError(
                f"degradation {degradation!r} is not known: expected one of "
                f"{', '.join(DEGRADATIONS)}"
            )
        self.side, self.batch_size, self.seed = side, batch_size, seed
        self.chances = DEGRADATIONS[degradation]
        border = (BLUR_RADIUS, BLUR_RADIUS)
        self.padded = [
            np.pad(photograph.numpy(), ((0, 0), border, border), mode="reflect")
            for photograph in photographs
        ]

    def batch(self, iteration: int) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h2 w2"]]:
        """Draw the batch of one iteration: low-resolution inputs and high-resolution truths."""
        draw = np.random.default_rng((self.seed, iteration))
        crops = torch.from_numpy(
            np.stack([self._crop(draw) for _ in range(self.batch_size)])
        ).float()
        crops /= 255
        high = crops[..., BLUR_RADIUS:-BLUR_RADIUS, BLUR_RADIUS:-BLUR_RADIUS]
        blurred, noisy = (
            torch.from_numpy(draw.random(self.batch_size) < chance) for chance in self.chances[:2]
        )
        low = downsample(high)
        if blurred.any():
            low[blurred] = downsample(blur_valid(crops[blurred]))
        if noisy.any():
            noise = torch.Generator().manual_seed(int(draw.integers(2**31)))
            low[noisy] = add_noise(low[noisy], noise)
        low = to_8bit(low)
        if self.chances[2]:  # drawn last: the patches of the other degradations stay as they are
            packed = torch.from_numpy(draw.random(self.batch_size) < self.chances[2])
            if packed.any():
                low[packed] = jpeg(low[packed])
        return low, high

    def _crop(self, draw: np.random.Generator) -> np.ndarray:
        image = self.padded[draw.integers(len(self.padded))]
        side = self.side + 2 * BLUR_RADIUS
        top = 2 * draw.integers((image.shape[1] - side) // 2 + 1)
        left = 2 * draw.integers((image.shape[2] - side) // 2 + 1)
        crop = image[:, top : top + side, left : left + side]
        crop = np.rot90(crop, int(draw.integers(4)), axes=(1, 2))
        return crop[:, :, ::-1] if draw.random() < 0.5 else crop


def load_photographs(
    folder: str | Path | None, patch: int
) -> tuple[list[UInt8[Tensor, "3 h w"]], Float[Tensor, "n 3 s s"]]:
    """Read photographs and hold some out for validation: see `hold_out`.

    Raises:
        DataError: for a missing or empty folder, an unreadable or too small file, or fewer than
            two photographs that are large enough to be held out.
    """
    return hold_out(read_photographs(folder, patch))


def hold_out(
    photographs: Mapping[Path, UInt8[Tensor, "3 h w"]],
) -> tuple[list[UInt8[Tensor, "3 h w"]], Float[Tensor, "n 3 s s"]]:
    """Hold some photographs out for validation.

    Returns:
        The training photographs, and the middle 128x128 of 8 others (half of them, where there
        are fewer than 16), spread evenly over those that are large enough.

    Raises:
        DataError: for fewer than two that are large enough.
    """
    large = [p for p, image in photographs.items() if min(image.shape[1:]) >= VALIDATION_CROP]
    count = min(HELD_OUT, len(large) // 2)
    if not count:
        folder = next(iter(photographs)).parent
        raise DataError(
            f"folder {folder} has {len(large)} photographs of at least {VALIDATION_CROP} pixels a "
            "side: at least 2 are needed, one of them for validation; more are better"
        )
    held_out = large[:: len(large) // count][:count]
    crops = [centre_crop(photographs[path], VALIDATION_CROP) for path in held_out]
    training = [image for path, image in photographs.items() if path not in held_out]
    return training, torch.stack(crops).float() / 255


def read_photographs(folder: str | Path | None, patch: int) -> dict[Path, UInt8[Tensor, "3 h w"]]:
    """Read all photographs of a folder, or those that scikit-image ships with.

    Raises:
        DataError: for a missing or empty folder, or a file that is unreadable or smaller than a
            patch.
    """
    files = bundled_files() if folder is None else find_images(folder)
    photographs = {}
    for path in files:
        photographs[path] = read_image(path)
        check_size(photographs[path], patch, path)
    return photographs

"""Random patches of photographs, as training draws them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from blind_sr.degradations import BLUR_RADIUS, add_noise, blur_valid, downsample, to_8bit
from blind_sr.images import centre_crop, check_size, find_images, read_image
from paramattr.errors import DataError

HELD_OUT = 8
VALIDATION_CROP = 128


class Patches:
    """Random patches of photographs with their low-resolution inputs.

    A patch is cut with a border, so that blurring it equals blurring the whole photograph. The
    draw depends on the seed and the iteration alone: a resumed run sees the same patches.

    Args:
        photographs: 8-bit, no side shorter than `side`.
        side: of a high-resolution patch in pixels, even.
        batch_size: patches a batch.
        seed: of every draw.
        degrading: whether inputs are blurred and noisy, each with probability 0.5.
    """

    def __init__(
        self,
        photographs: Sequence[UInt8[Tensor, "3 h w"]],
        *,
        side: int,
        batch_size: int,
        seed: int,
        degrading: bool,
    ) -> None:
        self.side, self.batch_size, self.seed, self.degrading = side, batch_size, seed, degrading
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
        blurred = torch.from_numpy(draw.random(self.batch_size) < 0.5) & self.degrading
        noisy = torch.from_numpy(draw.random(self.batch_size) < 0.5) & self.degrading
        low = downsample(high)
        if blurred.any():
            low[blurred] = downsample(blur_valid(crops[blurred]))
        if noisy.any():
            noise = torch.Generator().manual_seed(int(draw.integers(2**31)))
            low[noisy] = add_noise(low[noisy], noise)
        return to_8bit(low), high

    def _crop(self, draw: np.random.Generator) -> np.ndarray:
        image = self.padded[draw.integers(len(self.padded))]
        side = self.side + 2 * BLUR_RADIUS
        top = 2 * draw.integers((image.shape[1] - side) // 2 + 1)
        left = 2 * draw.integers((image.shape[2] - side) // 2 + 1)
        crop = image[:, top : top + side, left : left + side]
        crop = np.rot90(crop, int(draw.integers(4)), axes=(1, 2))
        return crop[:, :, ::-1] if draw.random() < 0.5 else crop


def load_photographs(
    folder: str | Path, patch: int
) -> tuple[list[UInt8[Tensor, "3 h w"]], Float[Tensor, "n 3 s s"]]:
    """Read a folder and hold some photographs out for validation.

    Returns:
        The training photographs (those smaller than a patch are an error that names the file),
        and the middle 128x128 of 8 photographs spread evenly over those that are large enough.

    Raises:
        DataError: for a missing or empty folder, an unreadable or too small file, or a folder
            of fewer than 16 photographs.
    """
    files = find_images(folder)
    photographs = {path: read_image(path) for path in files}
    for path, photograph in photographs.items():
        check_size(photograph, patch, path)
    large = [p for p in files if min(photographs[p].shape[1:]) >= VALIDATION_CROP]
    if len(large) < 2 * HELD_OUT:
        raise DataError(
            f"folder {folder} has {len(large)} photographs of at least {VALIDATION_CROP} pixels a "
            f"side: at least {2 * HELD_OUT} are needed, {HELD_OUT} of them for validation"
        )
    held_out = large[:: len(large) // HELD_OUT][:HELD_OUT]
    crops = [centre_crop(photographs.pop(path), VALIDATION_CROP) for path in held_out]
    return list(photographs.values()), torch.stack(crops).float() / 255

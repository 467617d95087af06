"""Blur, bilinear downsampling, noise and JPEG: the classical degradation of Eq. 1.

The paper's setting (Sec. 5.1): isotropic Gaussian blur, 21x21, sigma 2, on the high-resolution
image with reflected borders; bilinear downsampling by 2; white Gaussian noise of sigma 0.1 on the
low-resolution image; the result rounded to 8 bit. JPEG, which the paper leaves out, comes last.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from paramattr.errors import ParamattrError

SCALE = 2
"""How much smaller an input is than its photograph."""
BLUR_SIGMA = 2.0
BLUR_SIZE = 21
BLUR_RADIUS = BLUR_SIZE // 2
NOISE_SIGMA = 0.1
JPEG_QUALITY = 10


@dataclass(frozen=True)
class Degradation:
    """What is done to a photograph, and how much of it.

    Attributes:
        blur: sigma of the Gaussian in high-resolution pixels; 0 for none.
        noise: sigma of the noise, of the full range; 0 for none.
        quality: of JPEG, from 1 to 100; 0 for none.

    Raises:
        ParamattrError: for a severity that cannot be.
    """

    blur: float = 0.0
    noise: float = 0.0
    quality: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.blur < float("inf") and 0 <= self.noise < float("inf")):
            raise ParamattrError(
                f"blur is {self.blur:g} and noise {self.noise:g}: expected 0 for none, or a sigma "
                "above 0"
            )
        if not 0 <= self.quality <= 100:
            raise ParamattrError(
                f"JPEG quality is {self.quality}: expected 0 for no JPEG, or 1 to 100"
            )


CONDITIONS: dict[str, Degradation] = {
    "clean": Degradation(),
    "blur": Degradation(blur=BLUR_SIGMA),
    "noise": Degradation(noise=NOISE_SIGMA),
    "both": Degradation(blur=BLUR_SIGMA, noise=NOISE_SIGMA),
    "jpeg": Degradation(quality=JPEG_QUALITY),
}
"""Name of a condition to the degradation that it stands for."""


def gaussian_kernel(size: int = BLUR_SIZE, sigma: float = BLUR_SIGMA) -> Float[Tensor, "size"]:
    """Make a one-dimensional Gaussian of odd `size` that sums to 1; the blur is its outer product.

    >>> round(float(gaussian_kernel(3, 1.0)[1]), 4)
    0.4519
    """
    x = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    return (kernel / kernel.sum()).float()


def blur_valid(
    padded: Float[Tensor, "b c hp wp"], sigma: float = BLUR_SIGMA
) -> Float[Tensor, "b c h w"]:
    """Blur images that already carry a border of 10 pixels; the border is used up."""
    channels = padded.shape[1]
    kernel = gaussian_kernel(sigma=sigma).to(padded)
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)


def blur(images: Float[Tensor, "b c h w"], sigma: float = BLUR_SIGMA) -> Float[Tensor, "b c h w"]:
    """Blur with a 21x21 Gaussian, borders reflected; above sigma 3 its tails are cut off."""
    return blur_valid(F.pad(images, (BLUR_RADIUS,) * 4, mode="reflect"), sigma)


def downsample(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Halve both sides bilinearly, without an antialiasing filter: the mean of 2x2 pixels."""
    return F.interpolate(images, scale_factor=1 / SCALE, mode="bilinear", align_corners=False)


def add_noise(
    images: Float[Tensor, "b c h w"],
    generator: torch.Generator | None = None,
    sigma: float = NOISE_SIGMA,
) -> Float[Tensor, "b c h w"]:
    """Add white Gaussian noise, its sigma a share of the full range, drawn on the CPU."""
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float32)
    return images + sigma * noise.to(images)


def jpeg(images: Float[Tensor, "b 3 h w"], quality: int = JPEG_QUALITY) -> Float[Tensor, "b 3 h w"]:
    """Write RGB images in [0, 1] as JPEG (4:2:0, as Pillow does) and read them back."""
    pixels = to_8bit(images).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    read = []
    for one in pixels:
        file = io.BytesIO()
        Image.fromarray(one).save(file, format="JPEG", quality=quality)
        read.append(np.array(Image.open(file)))
    found = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)
    return found.to(images).div(255)


def to_8bit(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round to the 256 levels of an 8-bit image and clip to [0, 1]."""
    return images.mul(255).round().clamp(0, 255).div(255)


def degrade(
    images: Float[Tensor, "b c h w"],
    condition: str | Degradation,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c h2 w2"]:
    """Make the low-resolution input of one condition (Eq. 1).

    Args:
        images: high-resolution images in [0, 1], sides even and above 10; RGB for JPEG.
        condition: of `CONDITIONS`, or a degradation of any severity.
        generator: the source of the noise, on the CPU.

    Returns:
        Images of half the size in [0, 1], on the 256 levels of 8 bit.

    Raises:
        ParamattrError: for an unknown condition, or sides that are odd or too small.
    """
    if isinstance(condition, str) and condition not in CONDITIONS:
        raise ParamattrError(
            f"condition {condition!r} is not known: expected one of {', '.join(CONDITIONS)}"
        )
    height, width = images.shape[-2:]
    if height % SCALE or width % SCALE or min(height, width) <= BLUR_RADIUS:
        raise ParamattrError(
            f"images of {width}x{height} cannot be degraded: both sides must be even and above "
            f"{BLUR_RADIUS}; crop them first"
        )
    how = CONDITIONS[condition] if isinstance(condition, str) else condition
    low = downsample(blur(images, how.blur) if how.blur else images)
    low = to_8bit(add_noise(low, generator, how.noise) if how.noise else low)
    return jpeg(low, how.quality) if how.quality else low

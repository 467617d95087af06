"""Blur, bilinear downsampling and noise: the classical degradation of Eq. 1, in vectorised torch.

The paper's setting (Sec. 5.1): isotropic Gaussian blur, 21x21, sigma 2, on the high-resolution
image with reflected borders; bilinear downsampling by 2; white Gaussian noise of sigma 0.1 on the
low-resolution image; the result rounded to 8 bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ParamattrError

SCALE = 2
"""How much smaller an input is than its photograph."""
BLUR_SIGMA = 2.0
BLUR_SIZE = 21
BLUR_RADIUS = BLUR_SIZE // 2
NOISE_SIGMA = 0.1

CONDITIONS: dict[str, tuple[bool, bool]] = {
    "clean": (False, False),
    "blur": (True, False),
    "noise": (False, True),
    "both": (True, True),
}
"""Name of a condition: whether the image is blurred, whether it is noisy."""


def gaussian_kernel(size: int = BLUR_SIZE, sigma: float = BLUR_SIGMA) -> Float[Tensor, "size"]:
    """Make a one-dimensional Gaussian of odd `size` that sums to 1; the blur is its outer product.

    >>> round(float(gaussian_kernel(3, 1.0)[1]), 4)
    0.4519
    """
    x = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    return (kernel / kernel.sum()).float()


def blur_valid(padded: Float[Tensor, "b c hp wp"]) -> Float[Tensor, "b c h w"]:
    """Blur images that already carry a border of 10 pixels; the border is used up."""
    channels = padded.shape[1]
    kernel = gaussian_kernel().to(padded)
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)


def blur(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Blur with the 21x21 Gaussian of sigma 2, borders reflected."""
    return blur_valid(F.pad(images, (BLUR_RADIUS,) * 4, mode="reflect"))


def downsample(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Halve both sides bilinearly, without an antialiasing filter: the mean of 2x2 pixels."""
    return F.interpolate(images, scale_factor=1 / SCALE, mode="bilinear", align_corners=False)


def add_noise(
    images: Float[Tensor, "b c h w"], generator: torch.Generator | None = None
) -> Float[Tensor, "b c h w"]:
    """Add white Gaussian noise of sigma 0.1 of the full range, drawn on the CPU."""
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float32)
    return images + NOISE_SIGMA * noise.to(images)


def to_8bit(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round to the 256 levels of an 8-bit image and clip to [0, 1]."""
    return images.mul(255).round().clamp(0, 255).div(255)


def degrade(
    images: Float[Tensor, "b c h w"], condition: str, generator: torch.Generator | None = None
) -> Float[Tensor, "b c h2 w2"]:
    """Make the low-resolution input of one condition (Eq. 1).

    Args:
        images: high-resolution images in [0, 1], sides even and above 10.
        condition: `"clean"`, `"blur"`, `"noise"` or `"both"`.
        generator: the source of the noise, on the CPU.

    Returns:
        Images of half the size in [0, 1], on the 256 levels of 8 bit.

    Raises:
        ParamattrError: for an unknown condition, or sides that are odd or too small.
    """
    if condition not in CONDITIONS:
        raise ParamattrError(
            f"condition {condition!r} is not known: expected one of {', '.join(CONDITIONS)}"
        )
    height, width = images.shape[-2:]
    if height % SCALE or width % SCALE or min(height, width) <= BLUR_RADIUS:
        raise ParamattrError(
            f"images of {width}x{height} cannot be degraded: both sides must be even and above "
            f"{BLUR_RADIUS}; crop them first"
        )
    blurred, noisy = CONDITIONS[condition]
    low = downsample(blur(images) if blurred else images)
    return to_8bit(add_noise(low, generator) if noisy else low)

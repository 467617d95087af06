"""How far a restored image is from the truth (PSNR) and from another output (gradient maps)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from blind_sr.data.degradations import SCALE, to_8bit

Plane = Callable[[Tensor], Tensor]
"""RGB images `(B, 3, H, W)` to one channel `(B, 1, H, W)`."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601: the weight of red, green and blue in a grey image."""


def psnr(output: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
    """Peak signal-to-noise ratio in dB of each RGB image, 8-bit, 2 border pixels left out."""
    border = (..., slice(SCALE, -SCALE), slice(SCALE, -SCALE))
    return peak_signal_noise_ratio(
        to_8bit(output.float())[border],
        truth.float()[border],
        data_range=1.0,
        reduction="none",
        dim=(1, 2, 3),
    )


def grey(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Give the 8-bit grey image of each RGB image, in [0, 1]."""
    luma = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return to_8bit((to_8bit(images) * luma).sum(1, keepdim=True))


def blue(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Give the 8-bit blue channel of each RGB image, in [0, 1]."""
    return to_8bit(images[:, 2:])


PLANES: dict[str, Plane] = {"": grey, "_blue": blue}
"""What the output difference is measured on, by what the names of its numbers end in. The paper
says grey; the authors' script measures the blue channel, and so do the paper's tables."""
PLANE_LABELS = {plane: plane.strip("_") or "grey" for plane in PLANES}
"""What people read of each."""


def gradient_map(images: Float[Tensor, "b 3 h w"], plane: Plane = grey) -> Float[Tensor, "b 1 h w"]:
    """Gradient magnitude of a plane: central differences, zeros beyond the border."""
    padded = F.pad(plane(images), (1, 1, 1, 1))
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    return torch.sqrt(down**2 + across**2 + 1e-6)


def output_difference(
    output: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"], plane: Plane = grey
) -> Float[Tensor, "b"]:
    """Mean squared difference of the two gradient maps, per image (Sec. 5.2.1)."""
    difference = gradient_map(output.float(), plane) - gradient_map(reference.float(), plane)
    return difference.square().mean(dim=(1, 2, 3))

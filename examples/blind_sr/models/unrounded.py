"""The first layer of a network in half precision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def unrounded(first: nn.Module, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
    """Apply the first layer to the image in full precision, under autocast too.

    Half precision would round away what tells a noisy pixel from a clean one, and three channels
    gain no time by it.
    """
    kind = image.device.type
    with torch.autocast(kind, enabled=False):
        found: Tensor = first(image)
    return found.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else found

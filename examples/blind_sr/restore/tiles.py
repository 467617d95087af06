"""An image of any size, restored in the memory of one tile."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.data.degradations import SCALE

TILE = 256


def restore_whole(
    model: nn.Module, low: Float[Tensor, "1 3 h w"], *, tile: int = TILE
) -> Float[Tensor, "1 3 h2 w2"]:
    """Restore an image of any size, in tiles that see as much around them as the network does.

    The result is that of the whole image at once, in the memory of one tile. A network that pools
    over the image sees all of it, and is given all of it.

    Args:
        model: a network of the study.
        low: the input.
        tile: side of a tile in pixels of the input.
    """
    height, width = low.shape[-2:]
    layers = list(model.modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    border = 1 + sum(max(layer.kernel_size) // 2 for layer in convolutions)  # 1: the upsampling
    if any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in layers):
        tile = max(height, width)
    with torch.inference_mode():
        output = low.new_empty(1, 3, SCALE * height, SCALE * width)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                rows, above = _tile(top, tile, border, height)
                columns, before = _tile(left, tile, border, width)
                found = model(low[..., rows, columns])[..., SCALE * above :, SCALE * before :]
                place = output[..., SCALE * top :, SCALE * left :][
                    ..., : SCALE * tile, : SCALE * tile
                ]
                place.copy_(found[..., : place.shape[-2], : place.shape[-1]])
    return output


def _tile(start: int, tile: int, border: int, size: int) -> tuple[slice, int]:
    first = max(0, start - border)
    return slice(first, min(start + tile + border, size)), start - first

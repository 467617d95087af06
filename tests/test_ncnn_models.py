"""ncnn's files read into torch: the layers against torch's own, written out by hand."""

import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.ncnn_models import NcnnNetwork
from benchmarks.retrained_units import GOALS, retrained
from paramattr import random_scores
from paramattr.errors import CheckpointError
from tests.tiny import seeded

HALF = 0x01306B47
CONVOLUTION = "Convolution c 1 1 x y 0=4 1=3 5=1 6=108 9=2 -23310=1,0.100000"


def bits(*parts, mark=HALF):
    """Weights and biases in turn, as ncnn writes them."""
    content = b""
    for number, values in enumerate(parts):
        kind = ("<f2" if mark == HALF else "<f4") if number % 2 == 0 else "<f4"
        content += struct.pack("<I", mark) if number % 2 == 0 else b""
        content += values.numpy().astype(np.dtype(kind)).tobytes()
        content += b"\0" * (-len(content) % 4)
    return content


def written(folder, layers, content):
    lines = ["7767517", f"{len(layers)} 0", *layers]
    (folder / "net.param").write_text("\n".join(lines) + "\n")
    (folder / "net.bin").write_bytes(content)
    return folder / "net.param"


def drawn(*shape):
    return torch.randn(shape).half().float()


def draws():
    return {
        "first": (drawn(4, 3, 3, 3), drawn(4)),
        "gate": (drawn(4, 4), drawn(4)),
        "up": (drawn(3, 4, 4, 4), drawn(3)),  # outputs first, unlike torch's
        "image": torch.rand(2, 3, 12, 12),
    }


@pytest.mark.parametrize("mark", [HALF, 0])
def test_every_layer_does_what_torch_does(tmp_path, mark):
    made = seeded(draws)
    layers = [
        "Input in 0 1 image 0=12 1=12 2=3",
        "Split s 1 2 image a b",
        CONVOLUTION.replace(" x y ", " a y "),
        "Pooling p 1 1 y pooled 0=1 4=1",
        "InnerProduct g 1 1 pooled gate 0=4 1=1 2=16 9=4",
        "Scale m 2 1 y gate scaled 0=-233",
        "Deconvolution d 1 1 scaled up 0=3 1=4 3=2 4=3 5=1 6=192",
        "Crop k 2 1 up b cut 0=1 1=2",
        "Eltwise e 2 1 cut b out 0=1",
    ]
    content = bits(*made["first"], *made["gate"], *made["up"], mark=mark)
    network = NcnnNetwork(written(tmp_path, layers, content))
    image = made["image"]
    y = F.leaky_relu(F.conv2d(image, *made["first"]), 0.1)
    scaled = y * F.linear(y.mean((2, 3)), *made["gate"]).sigmoid()[:, :, None, None]
    up = F.conv_transpose2d(scaled, made["up"][0].transpose(0, 1), made["up"][1], 2, 3)
    torch.testing.assert_close(network(image), up[:, :, 2:14, 1:13] + image)


@pytest.mark.parametrize(
    ("layer", "extra", "said"),
    [
        (CONVOLUTION, b"\0\0\0\0", "4 bytes are left"),
        ("Softmax s 1 1 x y 0=1", b"", "Softmax"),
        (CONVOLUTION.replace("9=2", "9=5"), b"", "activation 5"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, layer, extra, said):
    content = bits(drawn(4, 3, 3, 3), drawn(4)) + extra
    with pytest.raises(CheckpointError, match=said):
        NcnnNetwork(written(tmp_path, [layer], content))


@pytest.mark.parametrize("how", GOALS)
def test_only_the_found_units_are_trained(tmp_path, how):
    layers = ["Input in 0 1 x 0=5 1=5 2=3", CONVOLUTION]
    contents = [seeded(lambda: bits(drawn(4, 3, 3, 3), drawn(4)), seed) for seed in range(2)]
    target, baseline = (NcnnNetwork(written(tmp_path, layers, c)).eval() for c in contents)
    top = random_scores(target, reducer="kernel").top(count=3)
    before = {"mend": target, "unlearn": target, "learn": baseline}[how]
    images = seeded(lambda: torch.rand(4, 3, 5, 5))
    network = retrained(how, target, baseline, top, iter([(images, images)]), 0.1)
    name = "layers.c.weight"
    own, start = network.get_parameter(name), before.get_parameter(name)
    changed = (own != start).any(-1).any(-1)
    assert torch.equal(changed, top.mask(name).any(-1).any(-1))
    assert torch.equal(
        network.get_parameter("layers.c.bias"), before.get_parameter("layers.c.bias")
    )

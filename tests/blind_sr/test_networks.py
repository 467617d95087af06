from itertools import pairwise, product

import pytest
import torch
from torch import nn

from blind_sr.models.networks import NETWORKS, build
from blind_sr.models.swin import SwinStyle
from paramattr import UnitIndex, load_state_dict
from paramattr.errors import ParamattrError


@pytest.mark.parametrize(("network", "filters"), [("srresnet", 151_936), ("srcnn", 156_224)])
def test_filters_are_counted_as_the_authors_do(network, filters):
    assert len(UnitIndex.of(build(network), "kernel")) == filters


def test_parameters_of_srresnet():
    assert sum(p.numel() for p in build("srresnet").parameters()) == 1_369_859


def test_srcnn_has_nine_convolutions():
    assert sum(isinstance(m, nn.Conv2d) for m in build("srcnn").modules()) == 9


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_twice_the_size(network):
    with torch.no_grad():
        assert build(network)(torch.rand(1, 3, 6, 8)).shape == (1, 3, 12, 16)


def authors_layout(network):
    """The names and shapes of the authors' checkpoints, written out from their description."""
    shapes = {}

    def conv(name, into, out):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into, 3, 3), (out,)

    if network == "srresnet":
        conv("conv_first", 3, 64)
        for block in range(16):
            conv(f"body.{block}.conv1", 64, 64)
            conv(f"body.{block}.conv2", 64, 64)
        conv("upconv1", 64, 256)
        conv("conv_hr", 64, 64)
        conv("conv_last", 64, 3)
    else:
        widths = [3, 64, 128, 128, 128, 128, 128, 512]
        for place, (into, out) in enumerate(pairwise(widths)):
            conv(f"features.{2 * place}", into, out)
        conv("features.15", 128, 128)
        conv("features.17", 128, 3)
    return shapes


@pytest.mark.parametrize("network", ["srresnet", "srcnn"])
def test_checkpoints_of_the_authors_layout_load_in_order(network, tmp_path):
    torch.manual_seed(0)
    ours, shapes = build(network), authors_layout(network)
    state = dict(zip(shapes, (v.clone() for v in ours.state_dict().values()), strict=True))
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes
    torch.save({"params_ema": state, "params": {}}, tmp_path / "net.pth")
    model = build(network)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(load_state_dict(tmp_path / "net.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    x = torch.rand(2, 3, 12, 10)
    with torch.no_grad():
        assert model(x).std() > 0
        torch.testing.assert_close(model(x), ours(x), rtol=0, atol=1e-6)


def test_srresnet_adds_to_the_bilinear_upsampling():
    model = build("srresnet")
    nn.init.zeros_(model.conv_last.weight)
    nn.init.zeros_(model.conv_last.bias)
    x = torch.rand(1, 3, 5, 5)
    expected = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert torch.equal(model(x), expected)


def test_an_unknown_network_is_refused():
    with pytest.raises(ParamattrError, match=r"'vgg'.*srresnet, srcnn"):
        build("vgg")


def test_the_two_branch_network_is_of_the_srresnets_size():
    sizes = [
        sum(p.numel() for p in build(name).parameters()) for name in ("two-branch", "srresnet")
    ]
    assert abs(sizes[0] / sizes[1] - 1) < 0.002


def test_the_two_branch_network_starts_as_its_restorer_alone():
    torch.manual_seed(0)
    model, x = build("two-branch"), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(model(x), model.restorer(x), atol=1e-6)


def test_the_srcnn_starts_near_nearest_neighbour_upsampling():
    torch.manual_seed(0)
    model, x = build("srcnn"), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        off = model(x) - nn.functional.interpolate(x, scale_factor=2)
    assert off.abs().mean() < 0.15 < (x - x.mean()).abs().mean()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_image_is_not_rounded_under_autocast(network):
    torch.manual_seed(0)
    model, image, seen = build(network), torch.rand(1, 3, 8, 8), []
    restoring = [m for n, m in model.named_modules() if not n.startswith("encoder")]
    convolutions = [module for module in restoring if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        module.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(image)
    first, *others = seen
    with torch.no_grad():
        assert torch.equal(first, convolutions[0](image))
    assert {one.dtype for one in others[: len(convolutions) - 1]} == {torch.bfloat16}
    torch.testing.assert_close(output.float(), model(image), rtol=0.05, atol=0.05)


def attended(model, image):
    """Window attention written out pixel by pixel and head by head, for the first group."""
    layers = model.layers[0]
    out = model.conv_first(image)[0].permute(1, 2, 0)
    for layer in layers:
        height, width, channels = out.shape
        attn, size = layer.attn, channels // layer.attn.num_heads
        normed = layer.norm1(out)
        qkv = attn.qkv(normed).reshape(height, width, 3, attn.num_heads, size)
        mixed = torch.zeros_like(normed)
        for y, x in product(range(height), range(width)):
            # Windows start at the shift, and those cut by the border stay cut.
            near = [
                (v, u)
                for v, u in product(range(height), range(width))
                if (v - layer.shift) // 8 == (y - layer.shift) // 8
                and (u - layer.shift) // 8 == (x - layer.shift) // 8
            ]
            heads = []
            for head in range(attn.num_heads):
                logits = torch.stack(
                    [
                        qkv[y, x, 0, head] @ qkv[v, u, 1, head] / size**0.5
                        + attn.relative_position_bias_table[(y - v + 7) * 15 + x - u + 7, head]
                        for v, u in near
                    ]
                )
                values = torch.stack([qkv[v, u, 2, head] for v, u in near])
                heads.append(logits.softmax(0) @ values)
            mixed[y, x] = torch.cat(heads)
        out = out + attn.proj(mixed)
        out = out + layer.mlp(layer.norm2(out))
    return out


def test_shifted_windows_attend_inside_themselves():
    torch.manual_seed(0)
    model, image = SwinStyle(features=4, groups=1, num_heads=2).double(), torch.rand(1, 3, 16, 16)
    image = image.double()
    with torch.no_grad():
        for layer in model.layers[0]:  # a bias that matters
            layer.attn.relative_position_bias_table.normal_()
        found = model.layers[0](model.conv_first(image).permute(0, 2, 3, 1))[0]
        torch.testing.assert_close(found, attended(model, image))


def test_heads_neurons_and_filters_of_the_swin():
    model = build("swin")
    assert len(UnitIndex.of(model, "kernel")) == 9_408
    heads = UnitIndex.of(model, "attention_head")
    assert len(heads) == 32
    assert len(UnitIndex.of(model, "neuron")) == 512
    # A head holds its rows of query, key and value, its output columns and its column of the bias.
    of_one = torch.arange(32) == 5  # the second layer's second head
    shares = {name: int(heads.mask(name, of_one).sum()) for name in heads.shapes}
    held = {name.removeprefix("layers.0.1.attn."): n for name, n in shares.items() if n}
    assert held == {
        "qkv.weight": 3 * 8 * 32,
        "qkv.bias": 3 * 8,
        "proj.weight": 8 * 32,
        "relative_position_bias_table": 225,
    }


def test_the_swin_takes_sides_that_are_no_multiple_of_the_window():
    torch.manual_seed(0)
    model, image = build("swin").eval(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert model(image[..., :11, :13]).shape == (1, 3, 22, 26)
        whole, cut = model(image), model(image[..., :8, :8])
    assert whole.shape == (1, 3, 32, 32)
    assert cut.shape == (1, 3, 16, 16)

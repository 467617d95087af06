"""The study's networks; two have the layer names and shapes of the authors' checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.data.degradations import SCALE
from blind_sr.models.swin import SwinStyle
from blind_sr.models.unrounded import unrounded
from paramattr.errors import CheckpointError, ParamattrError
from paramattr.files.reading import load_state_dict


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input; no batch normalisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        for conv in (self.conv1, self.conv2):  # small residuals at the start: a deep stack trains
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                conv.weight.mul_(0.1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the block's residual to `x`."""
        return x + self.conv2(F.relu(self.conv1(x)))


class SRResNet(nn.Module):
    """SRResNet x2 without batch normalisation; its output is added to the bilinear upsampling.

    With the default 64 features and 16 blocks it has 1,369,859 parameters and 151,936 KxK
    filters (Ledig et al. 2017; Xie et al. 2021, Sec. 5.1).

    Args:
        features: channels of every inner layer.
        blocks: residual blocks.

    Shape:
        Input `(B, 3, H, W)` in [0, 1]; output `(B, 3, 2H, 2W)`.
    """

    def __init__(self, features: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.upconv1 = nn.Conv2d(features, features * SCALE**2, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Restore and upsample `x` by 2."""
        return self.upsample(self.body(F.leaky_relu(unrounded(self.conv_first, x), 0.1)), x)

    def upsample(
        self, out: Float[Tensor, "b c h w"], x: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 3 h2 w2"]:
        """Upsample the features and add them to the bilinearly upsampled input."""
        out = F.leaky_relu(F.pixel_shuffle(self.upconv1(out), SCALE), 0.1)
        out = self.conv_last(F.leaky_relu(self.conv_hr(out), 0.1))
        return out + F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)


class SRCNNStyle(nn.Module):
    """Nine plain 3x3 convolutions with the upsampling near the end; no skip, 156,224 filters.

    Shape:
        Input `(B, 3, H, W)` in [0, 1]; output `(B, 3, 2H, 2W)`.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128, 128, 128, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.1)]
            channels = width
        layers += [nn.Conv2d(channels, channels * SCALE**2, 3, padding=1)]
        layers += [nn.PixelShuffle(SCALE), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(channels, 3, 3, padding=1)]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                _pass_colours_through(layer.weight)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Restore and upsample `x` by 2."""
        return self.features[1:](unrounded(self.features[0], x))


class TwoBranch(nn.Module):
    """A degradation encoder beside an SRResNet whose blocks are modulated by its embedding.

    As in DASR (Wang et al. 2021) one branch reads the degradation off the input and the other
    restores under its guidance; the embedding scales and shifts each block's residual. With the
    defaults it has 1,371,427 parameters, as many as the one-branch SRResNet to 0.1%.

    Args:
        features: channels of every inner layer.
        blocks: residual blocks.

    Shape:
        Input `(B, 3, H, W)` in [0, 1]; output `(B, 3, 2H, 2W)`.
    """

    def __init__(self, features: int = 64, blocks: int = 14) -> None:
        super().__init__()
        half = features // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, half, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(half, half, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(half, features, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(features, features),
            nn.LeakyReLU(0.1),
        )
        self.restorer = SRResNet(features, blocks)
        self.guides = nn.ModuleList(nn.Linear(features, 2 * features) for _ in range(blocks))
        for parameter in self.guides.parameters():  # at the start a plain SRResNet
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Restore and upsample `x` by 2."""
        embedding = self.encoder(x)
        out = F.leaky_relu(unrounded(self.restorer.conv_first, x), 0.1)
        for block, guide in zip(self.restorer.body, self.guides, strict=True):
            scale, shift = guide(embedding)[..., None, None].chunk(2, dim=1)
            out = out + (block(out) - out) * (1 + scale) + shift
        return self.restorer.upsample(out, x)


@torch.no_grad()
def _pass_colours_through(weight: Float[Tensor, "out in kh kw"]) -> None:
    # The first channels hand red, green and blue on as they are, so that the network starts as
    # nearest-neighbour upsampling: without a skip, it would spend its first thousands of steps on
    # learning that.
    outputs, inputs, height, width = weight.shape
    copies = SCALE**2 if outputs == SCALE**2 * inputs else 1  # before the pixel shuffle
    own = weight[: 3 * copies]
    own.zero_() if outputs > 3 else own.mul_(0.1)
    for channel in range(len(own)):
        own[channel, channel // copies, height // 2, width // 2] = 1.0


NETWORKS: dict[str, type[nn.Module]] = {
    "srresnet": SRResNet,
    "srcnn": SRCNNStyle,
    "swin": SwinStyle,
    "two-branch": TwoBranch,
}


def load(network: str, path: str | Path) -> nn.Module:
    """Make a network of the study with the weights of a file.

    Args:
        network: `"srresnet"`, `"srcnn"`, `"swin"` or `"two-branch"`.
        path: safetensors, or the authors' `.pth`.

    Returns:
        The network, in training mode, float32; the random state is left as it was.

    Raises:
        CheckpointError: if the file cannot be read or does not fit the network.
    """
    state = load_state_dict(path)
    with torch.random.fork_rng(devices=[]):
        model = build(network)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"weights {path} do not fit the network {network}: {reason}"
        ) from None
    return model


def build(network: str) -> nn.Module:
    """Make a freshly initialised network of the study.

    Args:
        network: `"srresnet"`, `"srcnn"`, `"swin"` or `"two-branch"`.

    Returns:
        The network, in training mode, float32.

    Raises:
        ParamattrError: if there is no network of that name.
    """
    if network not in NETWORKS:
        raise ParamattrError(
            f"network {network!r} is not known: expected one of {', '.join(NETWORKS)}"
        )
    return NETWORKS[network]()

"""A small network of shifted-window attention, after SwinIR (Liang et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from blind_sr.data.degradations import SCALE
from blind_sr.models.unrounded import unrounded


class WindowAttention(nn.Module):
    """Multi-head self-attention inside a window, with a learned bias per relative position.

    The names of its projections are those of timm, which `paramattr` reads as heads.

    Args:
        channels: of the tokens.
        num_heads: that share them.
        window: side of the window in pixels.

    Shape:
        Tokens `(B, window * window, channels)`, and so are the outputs.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        table = torch.empty((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        index = _relative_positions(window)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(
        self, x: Float[Tensor, "b n c"], apart: Bool[Tensor, "b n n"] | None = None
    ) -> Float[Tensor, "b n c"]:
        """Attend, but not from a token to one that is `apart` from it."""
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if apart is not None:
            bias = torch.where(apart[:, None], float("-inf"), bias)
        query = query * (channels // self.num_heads) ** -0.5
        logits = query @ key.transpose(-2, -1) + bias.to(query.dtype)
        mixed = logits.softmax(-1).to(value.dtype) @ value
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        channels: of the tokens.
        hidden: neurons.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Transform each token by itself."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinLayer(nn.Module):
    """Window attention and a feed-forward block, each after a norm and added to its input.

    Args:
        channels: of the features.
        num_heads: of the attention.
        window: side of the window in pixels.
        shift: by which the windows are moved, in pixels.

    Shape:
        Features `(B, H, W, channels)`, both sides multiples of the window, and so are the outputs.
    """

    def __init__(self, channels: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, 2 * channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Mix the features inside the windows, then each by itself."""
        rolled = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        apart = _apart(x, self.window, self.shift) if self.shift else None
        mixed = _joined(self.attn(_windows(rolled, self.window), apart), x, self.window)
        x = x + torch.roll(mixed, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class SwinStyle(nn.Module):
    """Groups of window attention and a convolution between convolutions, x2; a small SwinIR.

    With the defaults it has 32 heads, 9,408 KxK filters and 160,611 parameters. As in SRResNet
    here, its output is added to the bilinear upsampling.

    Args:
        features: channels of every inner layer.
        groups: each of two attention layers, the second with shifted windows, and a convolution.
        num_heads: of each attention layer.
        window: side of the window in pixels.

    Shape:
        Input `(B, 3, H, W)` in [0, 1], no side shorter than a window; output `(B, 3, 2H, 2W)`.
    """

    def __init__(
        self, features: int = 32, groups: int = 4, num_heads: int = 4, window: int = 8
    ) -> None:
        super().__init__()
        self.window = window
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                SwinLayer(features, num_heads, window, 0),
                SwinLayer(features, num_heads, window, window // 2),
            )
            for _ in range(groups)
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(features, features, 3, padding=1) for _ in range(groups)
        )
        self.norm = nn.LayerNorm(features)
        self.conv_after_body = nn.Conv2d(features, features, 3, padding=1)
        self.upconv1 = nn.Conv2d(features, features * SCALE**2, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Restore and upsample `x` by 2."""
        height, width = x.shape[-2:]
        border = (0, -width % self.window, 0, -height % self.window)
        shallow = unrounded(self.conv_first, F.pad(x, border, mode="reflect"))
        out = shallow
        for layers, conv in zip(self.layers, self.convs, strict=True):
            mixed = layers(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            out = out + conv(mixed)
        out = self.norm(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out = shallow + self.conv_after_body(out)
        out = F.leaky_relu(F.pixel_shuffle(self.upconv1(out), SCALE), 0.1)
        out = self.conv_last(out)[..., : SCALE * height, : SCALE * width]
        return out + F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)


def _windows(x: Float[Tensor, "b h w c"], window: int) -> Float[Tensor, "bn t c"]:
    batch, height, width, channels = x.shape
    split = x.view(batch, height // window, window, width // window, window, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def _joined(
    windows: Float[Tensor, "bn t c"], like: Float[Tensor, "b h w c"], window: int
) -> Float[Tensor, "b h w c"]:
    batch, height, width, channels = like.shape
    split = windows.view(batch, height // window, width // window, window, window, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def _apart(x: Float[Tensor, "b h w c"], window: int, shift: int) -> Bool[Tensor, "bn t t"]:
    # A shifted window at the border holds pixels of two sides of the image: they do not mix.
    batch, height, width, _ = x.shape
    rows, columns = (
        (torch.arange(size, device=x.device) >= size - shift).float() for size in (height, width)
    )
    region = (rows[:, None] * 2 + columns)[None, ..., None].expand(batch, -1, -1, -1)
    labels = _windows(region, window)[..., 0]
    return labels[:, :, None] != labels[:, None, :]


def _relative_positions(window: int) -> Int[Tensor, "t t"]:
    place = torch.arange(window)
    rows, columns = (p.flatten() for p in torch.meshgrid(place, place, indexing="ij"))
    down = rows[:, None] - rows + window - 1
    across = columns[:, None] - columns + window - 1
    return down * (2 * window - 1) + across

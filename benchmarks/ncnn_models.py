"""Networks as ncnn keeps them: a text file of layers, and a file of their weights."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import CheckpointError

_HALF = 0x01306B47
"""What stands before weights that are kept as half-precision numbers."""
_NOTHING, _RELU, _LEAKY, _SIGMOID = 0, 1, 2, 4
"""Numbers of activations."""
Options = dict[int, str]


class NcnnNetwork(nn.Module):
    """A network that runs the layers of an ncnn file in their order.

    Args:
        param: the file of layers; the weights lie beside it, with the suffix `.bin`.

    Raises:
        CheckpointError: for a kind of layer that is not known, or weights of another length.
    """

    def __init__(self, param: Path) -> None:
        super().__init__()
        lines = param.read_text().splitlines()[2:]
        self.steps = [_step(line) for line in lines if line.strip()]
        weights = _Weights(param.with_suffix(".bin").read_bytes())
        self.layers = nn.ModuleDict(dict(_made(self.steps, weights)))
        if weights.rest():
            raise CheckpointError(f"{param.stem}: {weights.rest()} bytes are left, expected none")
        self.activations = {name: _activation(options) for _, name, _, _, options in self.steps}

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Give the last layer's output."""
        blobs: dict[str, Tensor] = {}
        for kind, name, inputs, outputs, options in self.steps:
            given = [blobs[blob] for blob in inputs] or [image]
            made = self._run(kind, name, given, options)
            blobs |= dict.fromkeys(outputs, made)
        return made

    def _run(self, kind: str, name: str, given: list[Tensor], options: Options) -> Tensor:
        if kind in ("Input", "Split"):
            return given[0]
        if kind == "Pooling":
            return given[0].mean((2, 3))
        if kind == "Scale":
            return given[0] * given[1][:, :, None, None]
        if kind == "Eltwise":
            return given[0] + given[1]
        if kind == "Crop":
            left, top = int(options[0]), int(options[1])
            height, width = given[1].shape[2:]
            return given[0][:, :, top : top + height, left : left + width]
        value = self.layers[name](given[0])
        activation = self.activations[name]
        if activation == _LEAKY:
            return F.leaky_relu(value, 0.1)
        if activation == _RELU:
            return F.relu(value)
        return value.sigmoid() if activation == _SIGMOID else value


def _step(line: str) -> tuple[str, str, list[str], list[str], Options]:
    kind, name, n_in, n_out, *words = line.split()
    inputs, rest = words[: int(n_in)], words[int(n_in) :]
    outputs, settings = rest[: int(n_out)], rest[int(n_out) :]
    options = {int(key): value for key, _, value in (word.partition("=") for word in settings)}
    return kind, name, inputs, outputs, options


def _activation(options: Options) -> int:
    number = int(options.get(9, _NOTHING))
    slope = options.get(-23310, "1,0.1").split(",")[-1]
    if number not in (_NOTHING, _RELU, _LEAKY, _SIGMOID) or float(slope) != 0.1:
        raise CheckpointError(f"activation {number} ({slope}) is not known")
    return number


class _Weights:
    """Reads a file of weights from its beginning."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def flagged(self, count: int) -> Tensor:
        """Give weights behind the mark that says how they are kept."""
        (mark,) = struct.unpack_from("<I", self._content, self._place)
        self._place += 4
        values = self._read(count, np.dtype("<f2") if mark == _HALF else np.dtype("<f4"))
        self._place = -(-self._place // 4) * 4
        return values

    def plain(self, count: int) -> Tensor:
        """Give biases."""
        return self._read(count, np.dtype("<f4"))

    def rest(self) -> int:
        """Say how many bytes are left."""
        return len(self._content) - self._place

    def _read(self, count: int, kind: np.dtype[np.floating]) -> Tensor:
        values = np.frombuffer(self._content, kind, count, self._place)
        self._place += values.nbytes
        return torch.from_numpy(values.astype(np.float32))


def _made(
    steps: list[tuple[str, str, list[str], list[str], Options]], weights: _Weights
) -> Iterator[tuple[str, nn.Module]]:
    for kind, name, _, _, options in steps:
        if kind in ("Convolution", "Deconvolution"):
            yield name, _convolution(options, weights, transposed=kind == "Deconvolution")
        elif kind == "InnerProduct":
            yield name, _linear(options, weights)
        elif kind not in ("Input", "Split", "Pooling", "Scale", "Eltwise", "Crop"):
            raise CheckpointError(f"layer {name!r} is a {kind}: it is not known")


def _convolution(options: Options, weights: _Weights, *, transposed: bool) -> nn.Module:
    outputs, size = int(options[0]), int(options[1])
    stride, padding = int(options.get(3, 1)), int(options.get(4, 0))
    inputs = int(options[6]) // (outputs * size * size)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(inputs, outputs, size, stride, padding)
    weight = weights.flagged(int(options[6])).reshape(outputs, inputs, size, size)
    with torch.no_grad():
        layer.weight.copy_(weight.transpose(0, 1) if transposed else weight)
        layer.bias.copy_(weights.plain(outputs))  # type: ignore[union-attr]
    return layer


def _linear(options: Options, weights: _Weights) -> nn.Module:
    outputs, count = int(options[0]), int(options[2])
    layer = nn.Linear(count // outputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(weights.flagged(count).reshape(outputs, -1))
        layer.bias.copy_(weights.plain(outputs))
    return layer

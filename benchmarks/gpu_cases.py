"""What is timed on an accelerator: two models, an objective, and samples of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blind_sr.data.degradations import SCALE
from blind_sr.setting import Setting
from paramattr import next_token_cross_entropy, squared_error
from paramattr.objectives import Objective


class Way(NamedTuple):
    """How samples are differentiated: their size, how many at once, compiled or not."""

    size: int
    at_once: int = 1
    compiled: bool = False


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        target: on the device.
        baseline: on the device.
        objective: what is differentiated.
        units: that the gradients are reduced to.
        samples: a way to inputs and targets.
        ways: to time.
    """

    target: nn.Module
    baseline: nn.Module
    objective: Objective
    units: str | list[str]
    samples: Callable[[Way], tuple[Tensor, Tensor]]
    ways: tuple[Way, ...]


def network(name: str, device: str) -> Case:
    """Take a bundled pair, and noise of a side in pixels."""
    pair = Setting(name, device=device).load_pair()
    ways = (Way(32), Way(32, 4))
    if device == "cuda":
        ways = (Way(64), Way(64, 1, True), Way(64, 16), Way(256), Way(256, 1, True))
    return Case(pair.target, pair.baseline, squared_error, "kernel", _noise, ways)


def decoder(device: str) -> Case:
    """Make a decoder of GPT-2's shape, on a CPU a small one, and sequences of random tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from benchmarks.bench_transformers import changed

    torch.manual_seed(0)
    small = {} if device == "cuda" else {"n_layer": 2, "n_embd": 128, "n_head": 4}
    config = GPT2Config(**small)
    target = GPT2LMHeadModel(config).eval().to(device)

    def tokens(way: Way) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        drawn = torch.randint(config.vocab_size, (way.at_once, way.size), generator=draw)
        return drawn, drawn

    ways = (Way(32), Way(32, 4))
    if device == "cuda":
        ways = (Way(128), Way(128, 1, True), Way(128, 8), Way(1024))
    units = ["attention_head", "neuron"]
    return Case(target, changed(target), next_token_cross_entropy, units, tokens, ways)


CASES: Mapping[str, Callable[[str], Case]] = {
    "srresnet": partial(network, "srresnet"),
    "srcnn": partial(network, "srcnn"),
    "gpt2": decoder,
}
"""Names to what makes a case on a device."""


def _noise(way: Way) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((way.at_once, 3, side, side) for side in (way.size, SCALE * way.size))
    low, high = (torch.rand(shape, generator=draw) for shape in shapes)
    return low, high

"""Photographs and pairs of networks that are made up, small enough for a test."""

import csv
from functools import partial

import torch
from torch.nn.functional import interpolate

from blind_sr.data.images import write_image
from blind_sr.models.networks import SRResNet, TwoBranch
from paramattr import load_state_dict, save_state_dict
from tests.models import other_weights
from tests.tiny import seeded

SMALL = {
    "srresnet": partial(SRResNet, features=4, blocks=1),
    "srcnn": partial(SRResNet, features=4, blocks=2),
    "two-branch": partial(TwoBranch, features=4, blocks=1),
}


def write_photographs(folder, count, size, *, coarse=8, seed=0):
    """Write `photograph0.png` and so on: flat tiles, `coarse` a side, in an image of `size`."""
    draw = torch.Generator().manual_seed(seed)
    for number in range(count):
        tiles = torch.rand(1, 3, coarse, coarse, generator=draw)
        image = interpolate(tiles, size=size, mode="nearest")[0]
        write_image(image, folder / f"photograph{number}.png")
    return folder


def write_uses(factory, **counts):
    """Write as many photographs as each use takes; no two uses share one."""
    return {
        use: write_photographs(factory.mktemp(use), count, (20, 30), coarse=10, seed=seed)
        for seed, (use, count) in enumerate(counts.items())
    }


def write_pair(folder, network, build):
    """Write the weights of a network as the baseline, and moved a little as the target.

    One bias is a negative zero, which is what half precision makes of a tiny one.
    """
    baseline = seeded(build)
    first = next(p for name, p in baseline.named_parameters() if name.endswith("bias"))
    first.detach()[0] = -0.0
    for stage, model in (("baseline", baseline), ("target", other_weights(baseline, scale=0.03))):
        save_state_dict(folder / f"{network}_{stage}.safetensors", model.state_dict())


def rows_of(weights):
    """Read the log of a training."""
    return list(csv.DictReader(weights.with_suffix(".csv").read_text().splitlines()))


def check_same_training(one, other):
    """Compare two trainings: weights bit for bit, logs apart from the time."""
    first, second = load_state_dict(one), load_state_dict(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    logs = [[{**row, "seconds": ""} for row in rows_of(path)] for path in (one, other)]
    assert logs[0] == logs[1]

"""The memory that a call takes, told before it: against what tensors take while it runs."""

import gc

import pytest
import torch

from paramattr import FAIG, ParamattrError
from paramattr.runtime.memory import PeakOfTensors, peak_of_tensors
from tests.models import mlp, pair_of

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH = 64


def pair(kind=torch.float32, layers=6):
    return pair_of(lambda: mlp(*[WIDTH] * (layers + 1)), scale=0.05, dtype=kind)


def batch(rows=1, length=1):
    draw = torch.Generator().manual_seed(1)
    shape = (rows, length, WIDTH)
    return torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)


SETTINGS = {
    "parameters": ({}, {"reducer": "layer"}, (1, 1)),
    "activations": ({}, {"reducer": "layer"}, (1, 400)),
    "several at once": ({}, {"reducer": "layer", "internal_batch_size": 4}, (4, 1)),
    "partitions": ({}, {"reducer": "layer", "partitions": 3}, (1, 1)),
    "entries": ({"layers": 2}, {"reducer": "scalar"}, (1, 1)),
    "half": ({"kind": torch.bfloat16}, {"reducer": "output_channel"}, (1, 1)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_estimate_is_near_what_the_tensors_take(setting):
    of_pair, options, shape = SETTINGS[setting]
    target, baseline = pair(**of_pair)
    data = batch(*shape)
    faig = FAIG(target, baseline)
    expected = faig.estimate([data], **options)
    before = [*target.parameters(), *baseline.parameters(), *data]
    gc.collect()
    with peak_of_tensors(before) as follower:
        faig.score([data], **options)
    assert follower.peak == pytest.approx(expected.extra, rel=0.25)


def test_the_parts_follow_from_sizes():
    target, baseline = pair()
    size = sum(parameter.nbytes for parameter in target.parameters())
    found = FAIG(target, baseline).estimate([batch()], reducer="layer")
    assert found.parameters == found.baseline == found.point == size
    assert found.path == 0  # the models are in float32 where it computes: no copy
    assert found.sums == size
    assert found.activations < size
    assert found.peak > found.extra > 3 * size
    half = FAIG(*pair(torch.bfloat16)).estimate([batch()], reducer="layer", partitions=3)
    assert half.parameters == size // 2
    assert half.path == 2 * size
    assert half.gradients == size // 3


def test_what_does_not_fit_says_what_would():
    target, baseline = pair()
    size = sum(parameter.nbytes for parameter in target.parameters())
    faig = FAIG(target, baseline)

    def with_room(room, **options):
        return faig.estimate([batch(4)], reducer="layer", available=room, **options)

    assert with_room(10 * size).fits
    assert with_room(10 * size).advice == ""
    assert with_room(None).fits
    several = with_room(6 * size, internal_batch_size=4)
    assert not several.fits
    assert several.advice == "use internal_batch_size=1"
    parted = with_room(int(2.6 * size))
    assert "partitions=" in parted.advice
    assert "does not fit" in repr(parted)
    parts = int(parted.advice.rsplit("=", 1)[1])
    assert with_room(int(2.6 * size), partitions=parts).fits  # the advice is right
    assert "fully_shard" in with_room(size // 2).advice


def test_the_call_leaves_the_loader_and_the_models_alone():
    target, baseline = pair()
    kept = [parameter.clone() for parameter in target.parameters()]
    faig = FAIG(target, baseline)
    with pytest.raises(ParamattrError, match="read only once"):
        faig.estimate(iter([batch()]), reducer="layer")
    with pytest.raises(ParamattrError, match="no batch"):
        faig.estimate([], reducer="layer")
    faig.estimate([batch()], reducer="layer")
    assert all(p.grad is None for p in target.parameters())
    assert all(torch.equal(*both) for both in zip(target.parameters(), kept, strict=True))


def test_the_peak_is_of_what_is_alive():
    with PeakOfTensors() as follower:
        first = torch.zeros(100)
        del first
        second = torch.zeros(50)
        third = second[:10]
        del second
    assert follower.peak == 400
    assert follower.live == 200
    del third
    assert follower.live == 0

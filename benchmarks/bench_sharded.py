"""A decoder sharded by FSDP2 over 2 processes: its scores and its peak, against one process's.

The peak is each process's, with Python and torch, from before the call of `FAIG.score` on.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from benchmarks.benchmark import say, start
from benchmarks.launching import answer, launch
from benchmarks.networks import Decoder
from benchmarks.process import field, forget_peak
from paramattr import FAIG, next_token_cross_entropy

APART = "from benchmarks.bench_sharded import rank_main; rank_main()"


@dataclass(frozen=True)
class Config:
    width: int = 1024
    depth: int = 21
    vocabulary: int = 8000
    length: int = 16
    count: int = 1
    nodes: int = 2


def run(config: Config) -> dict[str, Any]:
    """Score on one process and on two."""
    words = [str(getattr(config, one.name)) for one in fields(config)]
    with tempfile.TemporaryDirectory() as folder:
        [alone] = launch(1, Path(folder) / "1", APART, *words)
        both = launch(2, Path(folder) / "2", APART, *words)
    expected = torch.tensor(alone.pop("values"))
    values = [torch.tensor(own.pop("values")) for own in both]
    apart = max(float((own - expected).abs().max() / expected.abs().max()) for own in values)
    rows = [
        say({"processes": 1, **alone}),
        *(say({"processes": 2, "rank": rank, **own}) for rank, own in enumerate(both)),
    ]
    peak = max(own["peak"] for own in both) / alone["peak"]
    found = {"largest_difference": apart, "peak_per_rank_over_one_process": peak}
    return {"units": len(expected), **say(found), "rows": rows}


def rank_main() -> None:
    """Score on this rank."""
    torch.set_num_threads(1)
    width, depth, vocabulary, length, count, nodes = map(int, sys.argv[1:])
    several = int(os.environ["WORLD_SIZE"]) > 1
    if several:
        dist.init_process_group("gloo")
    shape = (width, depth, vocabulary)
    target, baseline = (_made(shape, seed, sharded=several) for seed in (0, 1))
    draw = torch.Generator().manual_seed(2)
    tokens = [torch.randint(0, vocabulary, (1, length), generator=draw) for _ in range(count)]
    forget_peak()
    held, started = field("VmRSS"), time.perf_counter()
    faig = FAIG(target, baseline, objective=next_token_cross_entropy)
    scores = faig.score([(one, one) for one in tokens], reducer="output_channel", n_steps=nodes)
    answer(
        {
            "parameters": sum(parameter.numel() for parameter in target.parameters()),
            "held": held,
            "peak": field("VmHWM"),
            "seconds": time.perf_counter() - started,
            "values": scores.values.tolist(),
        }
    )
    if several:
        dist.destroy_process_group()


def _made(shape: tuple[int, int, int], seed: int, *, sharded: bool) -> nn.Module:
    """Make a decoder whose whole parameters no process ever holds at once."""
    with torch.device("meta"):
        model = Decoder(*shape)
    if sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        base = torch.randn(parameter.shape, generator=draw).mul_(0.02)
        base += name.endswith("weight") and parameter.ndim == 1
        if seed:
            base += torch.randn(parameter.shape, generator=draw).mul_(0.002)
        with torch.no_grad():
            if isinstance(parameter, DTensor):
                whole = distribute_tensor(base, parameter.device_mesh, parameter.placements)
                parameter.copy_(whole)
            else:
                parameter.copy_(base)
    return model.eval()


if __name__ == "__main__":
    start(Config, run)

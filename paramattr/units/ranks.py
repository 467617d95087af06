"""Ranks of low-rank adapters (LoRA) as units."""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch import nn

from paramattr.units.grid import Answer, OfModel, Reducer, Units, along, looked_up

_NAME = re.compile(
    r"(?P<path>.*?)\.?lora_(embedding_)?(?P<side>[AB])\.(?P<adapter>[^.]+)(\.weight)?"
)


@OfModel
def rank_component(model: nn.Module) -> Reducer:
    """Take each rank of PEFT's LoRA layers: its row of `A` (r, in) and its column of `B` (out, r).

    The group is the path of the wrapped module; the adapter's name follows if the module has
    several. The position is `(rank,)`.
    """
    answers: dict[str, Answer] = {}
    matches = [(n, p, _NAME.fullmatch(n)) for n, p in model.named_parameters() if p.ndim > 1]
    adapters: dict[str, set[str]] = defaultdict(set)
    for _, _, match in matches:
        if match:
            adapters[match["path"]].add(match["adapter"])
    for name, parameter, match in matches:
        if not match:
            continue
        dimension = 0 if match["side"] == "A" else 1
        rank = int(parameter.shape[dimension])
        group = match["path"]
        if len(adapters[group]) > 1:
            group = f"{group}.{match['adapter']}"
        labels = along(torch.arange(rank), dimension, parameter.ndim)
        answers[name] = Units(group, (rank,), labels)
    return looked_up(answers)

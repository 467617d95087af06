"""A selection as PEFT's `LoraConfig`: its layers, each with a rank of its own."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from torch import nn

from paramattr.errors import ParamattrError
from paramattr.surgery.export.masks import layers_of, peft
from paramattr.units.selection import Selection
from paramattr.wrappers import unwrapped

KNOWN = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that PEFT puts LoRA on, beside `Conv1D` of transformers."""


def lora_config(
    model: nn.Module, selection: Selection, *, scaling: float = 1.0, **options: Any
) -> Any:
    """Make a `LoraConfig` that adapts the layers of the selection, and no other.

    A layer of `m` rows and `n` columns, `k` of whose entries are selected, gets the rank

        r = ceil(k / (m + n)),    at most min(m, n)

    which is the smallest at which LoRA's `r (m + n)` numbers are as many as the entries selected::

        adapted = peft.get_peft_model(model, lora_config(model, selection, task_type="SEQ_CLS"))

    LoRA changes whole layers: it is put where the units are, and is not confined to them.
    `retrain_only` and `shira_config` are.

    Args:
        model: the model that will be adapted.
        selection: the units.
        scaling: factor of every layer's update, `lora_alpha / r`.
        options: other arguments of `LoraConfig`.

    Returns:
        A `peft.LoraConfig` with `target_modules`, `rank_pattern` and `alpha_pattern`.

    Raises:
        UnitError: if no layer that LoRA knows holds a selected entry, or the selection is of
            another model.
        ParamattrError: for a scaling that is not above 0, or where PEFT is not installed.

    Warns:
        UserWarning: of the selected entries that lie elsewhere, such as in biases.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", Sec. 4.1.
    """
    if isinstance(scaling, bool) or not isinstance(scaling, int | float) or not scaling > 0:
        raise ParamattrError(f"scaling is {scaling!r}: expected a number above 0, such as 1")
    library, model = peft(), unwrapped(model)
    layers = layers_of(model, selection, _fits, "LoRA")
    ranks = {own.path: min(math.ceil(own.selected / sum(own.sides)), *own.sides) for own in layers}
    if all(_is_conv1d(layer.module) for layer in layers):
        options.setdefault("fan_in_fan_out", True)
    usual = Counter(ranks.values()).most_common(1)[0][0]
    unusual = {f"^{re.escape(path)}": r for path, r in ranks.items() if r != usual}
    return library.LoraConfig(
        r=usual,
        lora_alpha=scaling * usual,
        rank_pattern=unusual,
        alpha_pattern={pattern: scaling * rank for pattern, rank in unusual.items()},
        target_modules=_targets(model, list(ranks)),
        **options,
    )


def _fits(module: nn.Module) -> bool:
    known = isinstance(module, KNOWN) and getattr(module, "groups", 1) == 1
    return known or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    return any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)


def _targets(model: nn.Module, paths: list[str]) -> list[str] | str:
    # PEFT takes names for endings, so that "0" names "1.0" too; an expression names whole paths.
    for name, _ in model.named_modules():
        if name not in paths and any(name.endswith(f".{path}") for path in paths):
            return "|".join(map(re.escape, paths))
    return paths

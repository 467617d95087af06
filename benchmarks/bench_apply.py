"""Does `paramattr apply` undo one task and keep the other? Do other tools read what is exported?

The pair of two tasks of `examples/text_encoder.py` is trained as it trains it and saved as folders;
with `--pair FOLDER` it is kept there, and read from there when it is there already.
Units are ranked for each task by FAIG's signed attributions, less the other task's: a unit that
comes first lowered this task's loss and not the other's. They are applied at each strength, and the
folder that `apply` writes is read by transformers and measured on held-out texts; beside it, random
units of the same layers at strength 0.

    python -m benchmarks.bench_apply --name apply
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from itertools import permutations
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

from benchmarks.benchmark import say, start
from paramattr import (
    FAIG,
    Scores,
    Selection,
    contrast,
    cross_entropy,
    lora_config,
    masks,
    pruning_masks,
    random_within_layers,
    save_state_dict,
    shira_config,
    substitute,
    task_adapter,
    task_vector,
    train_only_selected,
)
from paramattr.commands.apply import Config as Edit
from paramattr.commands.apply import run as apply

EXAMPLE = Path(__file__).parent.parent / "examples" / "text_encoder.py"


@dataclass(frozen=True)
class Config:
    pair: Path | None = None
    seed: int = 0
    units: tuple[str, ...] = ("output_channel", "neuron")
    shares: tuple[float, ...] = (0.05, 0.2)
    strengths: tuple[float, ...] = (0.0, 0.5)
    known: int = 24
    nodes: int = 4
    draws: int = 2


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Train the pair, rank, apply and measure."""
    with tempfile.TemporaryDirectory() as held:
        place, example = Path(held), load_example()
        started = time.perf_counter()
        own = example.Config(seed=config.seed)
        known, unseen = (example.texts(own, held_out=held) for held in (False, True))
        pair = config.pair or place
        if not (pair / "tuned").is_dir():
            train(example, own, known, pair)
        base, target = (read(example, pair / name) for name in ("base", "tuned"))
        result: dict[str, Any] = {
            "tuned": example.accuracies(target, unseen),
            "base": example.accuracies(base, unseen),
            "rows": [],
        }
        say({key: result[key] for key in ("tuned", "base")})
        ranked = rank(target, base, known, config)
        for task, other in permutations(ranked):
            for units in config.units:
                mine, its = ranked[task][units], ranked[other][units]
                scores = contrast(mine, its).by("sign")
                for share in config.shares:
                    chosen = scores.top(count=_count(scores, share), warn=False)
                    what = {"task": task, "units": units, "share": share, "count": len(chosen)}
                    found = [("signed contrast", chosen, each) for each in config.strengths]
                    found += [("random", own, 0.0) for own in _drawn(chosen, config.draws)]
                    for by, own, strength in found:
                        after = edited(example, pair, own, strength, unseen)
                        result["rows"].append(
                            say({**what, "by": by, "strength": strength, **after})
                        )
                yield result
        result["exports"] = exports(target, base, chosen, unseen, place)
        result["seconds"] = round(time.perf_counter() - started, 1)
        yield result


def load_example() -> Any:
    """Import the example by its place: it is no package."""
    spec = spec_from_file_location("text_encoder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example: Any = module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    return example


def train(example: Any, own: Any, known: Any, pair: Path) -> None:
    """Fine-tune as the example does, and save both models with the head that was trained."""
    torch.manual_seed(own.seed)
    base = example.BertForSequenceClassification.from_pretrained(
        str(example.model_folder()), num_labels=4, local_files_only=True
    ).eval()
    target = example.fine_tune(base, known, own)
    base.get_submodule("classifier").load_state_dict(
        target.get_submodule("classifier").state_dict()
    )
    base.save_pretrained(pair / "base")
    target.save_pretrained(pair / "tuned")


def read(example: Any, folder: Path) -> nn.Module:
    """Read one of the two folders, or what `apply` made of it."""
    model: nn.Module = example.BertForSequenceClassification.from_pretrained(
        str(folder), local_files_only=True
    )
    return model.eval()


def rank(target: nn.Module, base: nn.Module, known: Any, config: Config) -> Any:
    """Score the units for each task, on texts that were trained on."""
    loaders = {}
    for task, texts in known.items():
        few = texts[: config.known]
        loaders[task] = [({"input_ids": few.tokens}, few.classes)]
    faig = FAIG(target, base, objective=cross_entropy)
    return faig.score(loaders, reducer=list(config.units), n_steps=config.nodes)


def edited(
    example: Any, pair: Path, chosen: Selection, strength: float, unseen: Any
) -> dict[str, Any]:
    """Write the folder, compare it with the one it is of, read it, and measure."""
    with tempfile.TemporaryDirectory() as held:
        out, file = Path(held) / "edited", Path(held) / "chosen.safetensors"
        chosen.save(file)
        done = apply(Edit(pair / "tuned", file, out, strength, pair / "base"))
        before, after = (load_file(f / "model.safetensors") for f in (pair / "tuned", out))
        outside = sum(
            int((_bits(after[name]) != _bits(value))[~chosen.mask(name)].sum())
            for name, value in before.items()
        )
        return {
            "entries": done.entries,
            "changed_outside": outside,
            "after": example.accuracies(read(example, out), unseen),
        }


def exports(
    target: nn.Module, base: nn.Module, chosen: Selection, unseen: Any, place: Path
) -> dict[str, Any]:
    """Hand a selection to each tool, and say what it finds."""
    warnings.filterwarnings("ignore", ".*selected entries")
    tokens = next(iter(unseen.values())).tokens[:32]
    own = masks(chosen)
    save_state_dict(place / "masks.safetensors", own)
    matrices = sum(int(m.sum()) for m in own.values() if m.ndim == 2)
    found: dict[str, Any] = {
        "selected": sum(int(mask.sum()) for mask in own.values()),
        "selected_in_matrices": matrices,
        "safetensors_true": sum(
            int(mask.sum()) for mask in load_file(place / "masks.safetensors").values()
        ),
    }
    pruned = copy.deepcopy(target)
    for module, name, mask in pruning_masks(pruned, chosen):
        prune.custom_from_mask(module, name, mask)
    found["prune_zeros"] = sum(
        int((buffer == 0).sum()) for n, buffer in pruned.named_buffers() if n.endswith("_mask")
    )
    adapted = peft.get_peft_model(copy.deepcopy(target), lora_config(target, chosen))
    found["lora_layers"] = sum(hasattr(module, "lora_A") for module in adapted.modules())
    found["lora_trainable"] = adapted.get_nb_trainable_parameters()[0]
    copied = copy.deepcopy(target)
    adapted = peft.get_peft_model(copied, shira_config(copied, chosen))
    found["shira_entries"] = adapted.get_nb_trainable_parameters()[0]
    found["shira_trained"] = train_only_selected(adapted, chosen)
    change = task_vector(target, base, chosen)
    matrix = {name: value for name, value in change.items() if value.ndim == 2}
    task_adapter(target, base, chosen).save_pretrained(place / "change")
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(base), place / "change").eval()
    added = {n: v + matrix[n] if n in matrix else v for n, v in base.state_dict().items()}
    undone = {n: v - change[n] if n in change else v for n, v in target.state_dict().items()}
    plain, minus = copy.deepcopy(base), copy.deepcopy(base)
    plain.load_state_dict(added)
    minus.load_state_dict(undone)
    pairs = {
        "peft_adapter_logits": (adapted, plain),
        "task_vector_logits": (minus, substitute(target, base, chosen)),
        "tuned_to_base_logits": (target, base),
    }
    with torch.no_grad():
        for name, (one, two) in pairs.items():
            logits = one(input_ids=tokens).logits - two(input_ids=tokens).logits
            found[name] = float(logits.abs().max())
    return found


def _count(scores: Scores, share: float) -> int:
    return min(round(share * len(scores)), int((scores.values > 0).sum()))


def _drawn(chosen: Selection, draws: int) -> list[Selection]:
    return [random_within_layers(chosen, seed=seed).top(count=len(chosen)) for seed in range(draws)]


def _bits(value: torch.Tensor) -> torch.Tensor:
    return value.view(torch.int32)


if __name__ == "__main__":
    start(Config, run)

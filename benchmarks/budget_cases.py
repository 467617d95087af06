"""What budgets are spent on: two models, samples of two functions, and what masking does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.score_tables import Samples
from blind_sr.data.measures import output_difference
from blind_sr.labels import MASKS
from blind_sr.setting import Setting
from paramattr import FAIG, cross_entropy
from paramattr.files.reading import load_tensors, save_state_dict

EXAMPLE = Path(__file__).parent.parent / "examples" / "text_encoder.py"
MEASURED = 6
"""Photographs that masking is measured on."""
Effect = Callable[[nn.Module, Sequence[int]], dict[str, float]]
"""An edited target and places of samples that no ranking saw, to what each condition lost."""


@dataclass(frozen=True)
class Case:
    """What budgets are spent on.

    Attributes:
        samples: models and data, as many samples of each condition, in a random order.
        baseline: the baseline model.
        effect: what masking does.
    """

    samples: Samples
    baseline: nn.Module
    effect: Effect


@dataclass(frozen=True)
class Source:
    """Where cases come from.

    Attributes:
        images: folder of photographs.
        crop: side of the middle of the low-resolution image that is used.
        dtype: precision of the gradients.
        texts: of each task.
        scratch: folder that keeps what takes long; None keeps nothing.
    """

    images: Path | None
    crop: int
    dtype: str
    texts: int
    scratch: Path | None


def network(name: str, source: Source) -> Case:
    """Take a bundled pair and photographs; masking moves the output's gradient map."""
    setting = Setting(name, images=source.images, crop=source.crop, dtype=source.dtype)
    pair, photographs = setting.load_pair(), setting.load_photographs()
    order = _shuffled(len(photographs.names))
    data = {c: [photographs.pairs(c)[k] for k in order] for c in MASKS}
    faig = FAIG(pair.target, pair.baseline, dtype=pair.mixed)

    with torch.no_grad():  # before any edit, which is in place
        before = {c: [pair.target(low) for low, _ in batches] for c, batches in data.items()}

    @torch.no_grad()
    def effect(model: nn.Module, places: Sequence[int]) -> dict[str, float]:
        found = {}
        for condition, batches in data.items():
            low, output = (
                torch.cat([images[place] for place in places[:MEASURED]])
                for images in ([low for low, _ in batches], before[condition])
            )
            found[condition] = 1000 * float(output_difference(model(low), output).mean())
        return found

    return Case(Samples(faig, "kernel", data), pair.baseline, effect)


def text_encoder(name: str, source: Source) -> Case:
    """Fine-tune the example's sentence encoder; masking raises the loss on texts held out."""
    example = _example()
    config = example.Config()
    known, unseen = (example.texts(config, held_out=held_out) for held_out in (False, True))
    target, base = _encoders(example, config, known, source.scratch)
    data = {
        task: [
            ({"input_ids": own.tokens[k : k + 1]}, own.classes[k : k + 1])
            for k in _shuffled(len(own.classes))[: source.texts]
        ]
        for task, own in known.items()
    }

    @torch.no_grad()
    def losses(model: nn.Module) -> dict[str, float]:
        return {
            task: float(cross_entropy(model(input_ids=own.tokens), own.classes).mean())
            for task, own in unseen.items()
        }

    before = losses(target)

    def effect(model: nn.Module, places: Sequence[int]) -> dict[str, float]:
        return {task: value - before[task] for task, value in losses(model).items()}

    dtype = None if source.dtype == "float32" else getattr(torch, source.dtype)
    faig = FAIG(target, base, objective=cross_entropy, dtype=dtype)
    return Case(Samples(faig, "neuron", data), base, effect)


CASES: Mapping[str, Callable[[str, Source], Case]] = {
    "srresnet": network,
    "srcnn": network,
    "text_encoder": text_encoder,
}
"""Names to what makes a case."""


def _example() -> Any:
    spec = spec_from_file_location("text_encoder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    return example


def _encoders(
    example: Any, config: Any, known: Mapping[str, Any], scratch: Path | None
) -> tuple[nn.Module, nn.Module]:
    """Give the tuned encoder and its base, with the head that was trained in both."""
    torch.manual_seed(config.seed)
    base = example.BertForSequenceClassification.from_pretrained(
        str(example.model_folder()), num_labels=4, local_files_only=True
    ).eval()
    file = scratch and scratch / "target.safetensors"
    if file and file.exists():
        target = example.copy.deepcopy(base)
        target.load_state_dict(load_tensors(file)[0])
    else:
        target = example.fine_tune(base, known, config)
        if file:
            save_state_dict(file, target.state_dict())
    head: dict[str, Tensor] = target.get_submodule("classifier").state_dict()
    base.get_submodule("classifier").load_state_dict(head)
    return target, base


def _shuffled(count: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()

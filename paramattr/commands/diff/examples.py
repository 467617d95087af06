"""Texts before and after the units of a condition are masked, and strengths of these units."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramattr.commands.diff.material import Material
from paramattr.commands.diff.names import ENDS, counted
from paramattr.commands.diff.result import Examples, Result
from paramattr.errors import ParamattrError
from paramattr.integration.batches import Batch
from paramattr.objectives import next_token_cross_entropy, prediction
from paramattr.report.blocks import Change, Modulation, State
from paramattr.runtime.isolation import undisturbed
from paramattr.surgery.edits import modulate, substituted
from paramattr.units.selection import Selection

SAMPLES = 16
"""Samples of each condition, the first ones, that texts are chosen from and strengths measured on.
A batch is not cut: there may be a few more."""
TEXTS = 2
"""Texts that are shown of each condition: those whose objective rises most."""
CONDITIONS = 4
"""Conditions that are shown, the first ones."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CLASSES = 3
"""Classes that are named of each text, the likeliest ones."""


class Answer(NamedTuple):
    """A model's answer to one sample: its objective, and its prediction in words."""

    value: float
    said: str


def illustrate(material: Material, result: Result) -> Examples:
    """Run the tuned, the base, the masked and the blended models on a few samples.

    Args:
        material: the models and the data.
        result: findings, whose first kind of masked units is taken.
    """
    kind = next(iter(result.plan.masked))
    sought = [name for name in material.conditions if len(result.selections[kind][name])]
    changes: list[Change] = []
    modulations: list[Modulation] = []
    notes = [] if material.texts else ["Before and after: left out, since there are no texts."]
    for name in sought[:CONDITIONS]:
        selection = result.selections[kind][name]
        title = counted(len(selection), kind)
        title += f" of {name}" if len(material.conditions) > 1 else ""
        if material.texts:
            changes += _changes(material, selection, name, title)
        try:
            modulations.append(_modulation(material, selection, title))
        except ParamattrError as error:
            notes.append(f"Strengths of {title}: left out ({error}).")
    notes += [
        f"Before and after, and strengths: left out for {name}, where no {kind.replace('_', ' ')} "
        "scores above zero."
        for name in material.conditions
        if name not in sought
    ]
    if changes:
        notes.append(
            f"Before and after: of the {SAMPLES} shortest texts of a condition, the {TEXTS} whose "
            "objective rises most when the condition's top units are masked."
        )
    if modulations:
        notes.append(f"Modulation: the mean objective of the first {SAMPLES} samples or so.")
    if len(sought) > CONDITIONS:
        notes.append(
            f"Before and after, and strengths: of {', '.join(sought[:CONDITIONS])} alone, "
            f"{CONDITIONS} of {len(sought)} conditions."
        )
    return Examples(tuple(changes), tuple(modulations), tuple(notes))


def _changes(material: Material, selection: Selection, name: str, title: str) -> list[Change]:
    tuned = _answers(material.target, material, name)
    base = _answers(material.baseline, material, name)
    with substituted(material.target, material.baseline, selection) as edited:
        masked = _answers(edited, material, name)
    rise = [after.value - before.value for before, after in zip(tuned, masked, strict=True)]
    order = sorted(range(len(rise)), key=lambda place: -rise[place])[:TEXTS]
    return [
        Change(
            f"{name}, {text.place}" if len(material.conditions) > 1 else text.place,
            State("tuned", tuned[place].said, f"objective {tuned[place].value:.4g}"),
            State(f"{title} masked", masked[place].said, f"objective {masked[place].value:.4g}"),
            State("text", text.text),
            f"The objective rises by {rise[place]:.3g}. The base's is {base[place].value:.3g}.",
        )
        for place in order
        for text in [material.texts[name][place]]
    ]


def _modulation(material: Material, selection: Selection, title: str) -> Modulation:
    values: dict[str, list[float]] = {name: [] for name in material.conditions}
    for strength in STRENGTHS:
        model = modulate(material.target, material.baseline, selection, strength)
        for name, own in values.items():
            own.append(fmean(answer.value for answer in _answers(model, material, name)))
    return Modulation(title, STRENGTHS, values, "objective", ends=ENDS)


def _answers(model: nn.Module, material: Material, name: str) -> list[Answer]:
    answers: list[Answer] = []
    with undisturbed(model), torch.no_grad():
        for batch in _first(material, name, model):
            output = model(*batch.arguments, **batch.keywords)
            values = material.objective(output, batch.targets).double().tolist()
            said = _said(output, batch, material, model)
            answers += map(Answer, values, said)
    return answers


def _first(material: Material, name: str, model: nn.Module) -> Iterator[Batch]:
    count = 0
    for item in material.conditions[name]:
        batch = Batch.from_loader(item, model=model)
        yield batch
        count += len(batch)
        if count >= SAMPLES:
            return


def _said(output: Any, batch: Batch, material: Material, model: nn.Module) -> list[str]:
    logits = prediction(output)
    if not material.texts or not isinstance(logits, Tensor):
        return [""] * len(batch)
    if logits.ndim == 2:
        names = dict(getattr(getattr(model, "config", None), "id2label", None) or {})
        return [_classes(row, names) for row in logits.double().softmax(1)]
    if logits.ndim == 3 and material.objective is next_token_cross_entropy:
        kept = batch.keywords.get("attention_mask", torch.ones(logits.shape[:2])).bool().cpu()
        guesses = logits.argmax(-1).cpu()
        return [
            str(material.tokenizer.decode(own[mask][:-1]))
            for own, mask in zip(guesses, kept, strict=True)
        ]
    return ["(the prediction is neither a class nor a text)"] * len(batch)


def _classes(chances: Tensor, names: dict[int, str]) -> str:
    order = chances.argsort(descending=True)[:CLASSES].tolist()
    return "\n".join(f"{names.get(n, n)}: {100 * float(chances[n]):.1f}%" for n in order)

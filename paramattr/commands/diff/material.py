"""The material of a diff: models, and samples of a file."""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.commands.diff.config import Config
from paramattr.commands.diff.names import ALL, check_conditions
from paramattr.errors import CheckpointError, DataError, ModelError, ParamattrError, an, one_line
from paramattr.files.folders import is_folder_of_model
from paramattr.files.reading import load_state_dict, parsed
from paramattr.huggingface import is_causal, read_pair
from paramattr.integration.batches import Batch, drawn, mapped
from paramattr.objectives import (
    IGNORED,
    Objective,
    cross_entropy,
    next_token_cross_entropy,
    squared_error,
)

LONGEST = 2**22
"""Bytes of one line."""
MOST_CONDITIONS = 64
"""Limit of a file's conditions: sums of every two of them are kept for each unit."""


@dataclass(frozen=True)
class Text:
    """One line of the file."""

    text: str
    label: int | str | None
    condition: str
    place: str


def read_texts(path: Path) -> list[Text]:
    """Read lines `{"text", "label"?, "condition"?}`; empty lines are passed over.

    Raises:
        DataError: naming the first line that is none, or if there is none at all.
    """
    texts = [
        _text(line, f"line {number} of {path}") for number, line in _lines(path) if line.strip()
    ]
    if not texts:
        raise DataError(f'file {path} is empty: expected lines such as {{"text": "..."}}')
    named = [text for text in texts if text.condition]
    if named and len(named) < len(texts):
        without = next(text for text in texts if not text.condition)
        raise DataError(
            f"{without.place} has no condition, and others have one: give each line one, or none"
        )
    conditions = dict.fromkeys(text.condition for text in named)
    check_conditions(conditions, str(path))
    if len(conditions) > MOST_CONDITIONS:
        raise DataError(
            f"{path} has {len(conditions)} conditions: expected at most {MOST_CONDITIONS}, each of "
            "many texts; a condition is what texts have in common, not their number"
        )
    return texts if named else [Text(t.text, t.label, ALL, t.place) for t in texts]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read one line after the other, none of which may be longer than `LONGEST`."""
    try:
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(LONGEST + 1)
                if not line:
                    return
                if len(line) > LONGEST:
                    raise DataError(
                        f"line {number} of {path} is longer than {LONGEST} bytes: expected one "
                        "text per line; cut it into several"
                    )
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {number} of {path} is no UTF-8 ({error.reason} at byte {error.start}): expected "
            "JSON lines in UTF-8; save the file in it"
        ) from None
    except OSError as error:
        raise DataError(f"file {path} cannot be read ({error}): expected JSON lines") from None


def _text(line: str, place: str) -> Text:
    try:
        found = parsed(line)
    except ValueError as error:
        reason = one_line(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        raise DataError(
            f'{place} is not JSON ({reason}): expected {{"text": "...", ...}}'
        ) from None
    if not isinstance(found, dict):
        raise DataError(f'{place} is no JSON object: expected {{"text": "...", ...}}')
    text, label, condition = (found.get(key) for key in ("text", "label", "condition"))
    if not isinstance(text, str) or not text:
        raise DataError(f'{place} has no "text": found {_cut(text)}; expected a string')
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise DataError(f'{place} has "label" {_cut(label)}: expected a whole number or a name')
    if condition is not None and (not isinstance(condition, str) or not condition):
        raise DataError(f'{place} has "condition" {_cut(condition)}: expected a name')
    for word in (text, label, condition):
        if isinstance(word, str) and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise DataError(
                f"{place} holds half of a surrogate pair, which is no letter: write it in UTF-8"
            )
    return Text(text, label, condition or "", place)


def shortest_first(texts: list[Text]) -> dict[str, list[Text]]:
    """Give the texts of each condition by their length: batches of like ones run less padding."""
    conditions = dict.fromkeys(text.condition for text in texts)
    by_length = sorted(texts, key=lambda text: len(text.text))
    return {name: [text for text in by_length if text.condition == name] for name in conditions}


class Tokens:
    """Makes batches of texts for a model.

    Args:
        tokenizer: tokenizer of the model.
        model: model whose forward takes what the tokenizer gives.
        labelled: whether a text's label is the target; else its own tokens are.
        max_tokens: largest number of tokens per text.

    Attributes:
        cut: number of texts that were longer.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, *, labelled: bool, max_tokens: int):
        self.tokenizer, self.model, self.labelled = tokenizer, model, labelled
        self.config: Any = getattr(model, "config", None)
        limits = (max_tokens, tokenizer.model_max_length, self._positions())
        self.most = min(int(limit) for limit in limits if limit)
        self.cut = 0
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise DataError("the tokenizer has no token to pad with: set its pad_token")
            tokenizer.pad_token = tokenizer.eos_token

    def batches(self, texts: list[Text], size: int) -> dict[str, list[dict[str, Tensor]]]:
        """Batch the texts of each condition, in the order of `shortest_first`.

        Raises:
            DataError: for a text without a usable label, or of too few tokens: the first of the
                file.
        """
        for part in _parts(texts, size):
            self._check(part)
        return {
            condition: [self._batch(part) for part in _parts(own, size)]
            for condition, own in shortest_first(texts).items()
        }

    def _check(self, texts: list[Text]) -> None:
        labels = [self._label(text) for text in texts] if self.labelled else []
        given = self.tokenizer([text.text for text in texts], truncation=False)["input_ids"]
        self.cut += sum(len(tokens) > self.most for tokens in given)
        for text, tokens in zip(texts, given, strict=True):
            if not labels and len(tokens) < 2:
                raise DataError(
                    f"{text.place} has {len(tokens)} token: expected 2, one to foretell"
                )

    def _batch(self, texts: list[Text]) -> dict[str, Tensor]:
        batch = self.tokenizer(
            [text.text for text in texts],
            truncation=True,
            max_length=self.most,
            padding=True,
            return_tensors="pt",
        )
        self._check_numbers(batch["input_ids"], texts)
        taken = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in batch.items() if name in taken}
        if self.labelled:
            return {**inputs, "labels": torch.tensor([self._label(text) for text in texts])}
        mask = batch["attention_mask"]
        return {**inputs, "labels": batch["input_ids"].masked_fill(mask == 0, IGNORED)}

    def _check_numbers(self, numbers: Tensor, texts: list[Text]) -> None:
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        rows = getattr(embedding, "num_embeddings", None)
        if rows is None or not numbers.numel() or int(numbers.max()) < rows:
            return
        first = int((numbers >= rows).any(1).nonzero()[0])
        raise DataError(
            f"{texts[first].place} has token {int(numbers[first].max())}, and the model knows "
            f"0 to {rows - 1}: the tokenizer is another model's; save the model's own into its "
            "folder with tokenizer.save_pretrained(...)"
        )

    def _label(self, text: Text) -> int:
        numbers: dict[str, int] = dict(getattr(self.config, "label2id", None) or {})
        count = int(getattr(self.config, "num_labels", 0) or len(numbers))
        label = numbers.get(text.label) if isinstance(text.label, str) else text.label
        if label is None and text.label is None:
            raise DataError(
                f'{text.place} has no "label", which the objective compares with: give each line '
                "one, or take another --objective"
            )
        if label is None or not 0 <= label < count:
            raise DataError(
                f"{text.place} has label {_cut(text.label)}: expected 0 to {count - 1}, or one of "
                f"{', '.join(list(numbers)[:8])}"
            )
        return int(label)

    def _positions(self) -> int | None:
        most = getattr(self.config, "max_position_embeddings", None)
        # RoBERTa and its kin count positions from behind the padding token.
        offset = 2 if "roberta" in str(getattr(self.config, "model_type", "")) else 0
        return most - offset if isinstance(most, int) and most > offset else None


def _cut(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _parts(texts: list[Text], size: int) -> Iterator[list[Text]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


CLASSIFICATION, NEXT_TOKEN = "classification", "next-token"
OBJECTIVES: dict[str, Objective] = {
    CLASSIFICATION: cross_entropy,
    NEXT_TOKEN: next_token_cross_entropy,
    "squared-error": squared_error,
}
"""Names of objectives on the command line."""


@dataclass(frozen=True)
class Material:
    """Two models of one architecture, and what they are compared on.

    Attributes:
        target: tuned model, in evaluation mode, on the device that computes.
        baseline: base, likewise.
        conditions: name to batches, as `FAIG.score` takes them.
        objective: `(output, targets)` to one number per sample.
        measured_by: the objective's name on the command line.
        counts: name to the number of samples.
        notes: sentences on what was cut, kept or dropped.
        texts: name to the texts of the batches, in the batches' order; empty where there are none.
        tokenizer: tokenizer of the texts.
    """

    target: nn.Module
    baseline: nn.Module
    conditions: dict[str, list[Any]]
    objective: Objective
    counts: dict[str, int]
    measured_by: str = CLASSIFICATION
    notes: tuple[str, ...] = ()
    texts: Mapping[str, Sequence[Text]] = field(default_factory=dict)
    tokenizer: Any = None


def gather(config: Config) -> Material:
    """Read all that a comparison needs, and refuse what does not fit.

    Raises:
        ParamattrError: naming what is missing or wrong.
    """
    device = _device(config.device)
    if config.objective is not None:
        _objective(config.objective)  # a wrong name shows before the models are read
    found = _of_state_dicts(config) if config.model else _of_folders(config)
    target, baseline = found.target.to(device), found.baseline.to(device)
    moved = {
        name: [mapped(batch, partial(_to, device)) for batch in batches]
        for name, batches in found.conditions.items()
    }
    counts = {
        name: sum(len(Batch.from_loader(batch, model=target)) for batch in batches)
        for name, batches in moved.items()
    }
    return replace(
        found,
        target=target,
        baseline=baseline,
        conditions=moved,
        objective=_objective(found.measured_by),
        counts=counts,
    )


def _objective(name: str) -> Objective:
    return OBJECTIVES.get(name) or _named(name, "--objective")


def _measured_by(config: Config, model: nn.Module) -> str:
    """Name the objective: what was asked for, else what the model is for."""
    return config.objective or (NEXT_TOKEN if is_causal(model) else CLASSIFICATION)


def dtype_of(name: str | None) -> torch.dtype | None:
    """Take a precision by its name in torch.

    Raises:
        ParamattrError: for any other name.
    """
    found = getattr(torch, name, None) if name else None
    if name and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ParamattrError(f"dtype {name!r} is none of float32, float64, bfloat16, float16")
    return found


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or "cpu")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no such GPU")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ParamattrError(
            f"device {name!r} cannot be used ({reason}): leave --device out for the CPU"
        ) from None
    return device


def _of_folders(config: Config) -> Material:
    if config.data is None:
        raise DataError("folders of Hugging Face are compared on texts: give --data FILE.jsonl")
    if config.objective == "squared-error":
        raise ParamattrError("texts have no target for squared-error: take another objective")
    for folder in (config.base, config.tuned):
        if folder.is_file():
            raise CheckpointError(
                f"{folder} is a file: expected a folder of Hugging Face; for two state dicts give "
                "--model and --batches"
            )
    texts = read_texts(config.data)
    pair = read_pair(config.base, config.tuned, adapter=config.adapter)
    if pair.tokenizer is None:
        raise DataError(
            f"neither {config.tuned} nor {config.base} holds a tokenizer: save it there with "
            "tokenizer.save_pretrained(...)"
        )
    measured_by = _measured_by(config, pair.target)
    labelled, limit = measured_by != NEXT_TOKEN, config.max_tokens
    tokens = Tokens(pair.tokenizer, pair.target, labelled=labelled, max_tokens=limit)
    conditions: dict[str, list[Any]] = dict(tokens.batches(texts, config.batch_size))
    notes = []
    if tokens.cut:
        notes.append(f"{tokens.cut} of {len(texts)} texts were cut at {tokens.most} tokens.")
    if pair.kept:
        notes.append(
            f"{', '.join(pair.kept)}: not in the base, or of another shape there. Both models hold "
            "the tuned one's, and nothing is attributed to them."
        )
    if pair.dropped:
        notes.append(f"{', '.join(pair.dropped)}: in the base alone, and left out.")
    if pair.ignored:
        notes.append(
            f"{', '.join(pair.ignored)}: in the tuned folder, and without a place in its class of "
            "model; ignored."
        )
    found = Material(pair.target, pair.baseline, conditions, cross_entropy, {}, measured_by)
    return replace(found, notes=tuple(notes), texts=shortest_first(texts), tokenizer=pair.tokenizer)


def _of_state_dicts(config: Config) -> Material:
    for path in (config.base, config.tuned):
        if path.is_dir() and is_folder_of_model(path):
            raise CheckpointError(
                f"{path} is a folder of Hugging Face: leave --model and --batches out, or give a "
                "file with a state dict"
            )
    states = [load_state_dict(path) for path in (config.tuned, config.base)]
    model = _called(_named(config.model or "", "--model"), "--model")
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"--model {config.model} gave {an(type(model))}: expected a torch.nn.Module"
        )
    pair = [
        _filled(copy.deepcopy(model), state, path)
        for state, path in zip(states, (config.tuned, config.base), strict=True)
    ]
    given = _called(_named(config.batches or "", "--batches"), "--batches")
    loaders = given if isinstance(given, Mapping) else {ALL: given}
    conditions = {}
    check_conditions([str(name) for name in loaders], f"--batches {config.batches}")
    for name, loader in loaders.items():
        if not isinstance(name, str) or not isinstance(loader, Iterable):
            raise DataError(
                f"--batches {config.batches} gave {type(loader).__name__} for {name!r}: expected a "
                "loader, or a mapping of conditions to loaders"
            )
        conditions[name] = _called(partial(list, drawn(loader, name)), "--batches")
        if not conditions[name]:
            raise DataError(f"--batches {config.batches} gave no batch for condition {name!r}")
    measured_by = _measured_by(config, pair[0])
    return Material(pair[0], pair[1], conditions, cross_entropy, {}, measured_by)


def _filled(model: nn.Module, state: dict[str, Any], path: Path) -> nn.Module:
    own = model.state_dict()
    common = [name for name in state if name in own]
    if not common:
        raise ModelError(
            f"{path} and the model have no parameter in common: it holds {next(iter(state))!r}, "
            f"the model {next(iter(own), 'nothing')!r}"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:2])
        raise ModelError(f"{path} does not fit the model: {reason}") from None
    return model.eval()


def _named(place: str, option: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    if not module or not name:
        known = f"one of {', '.join(OBJECTIVES)}, or " if option == "--objective" else ""
        raise ParamattrError(f"{option} is {place!r}: expected {known}package.module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules beside where the command is called
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ParamattrError(f"{option} {place} cannot be imported: {error}") from None
    if not callable(found):
        raise ParamattrError(f"{option} {place} is {an(type(found))}: expected a function")
    function: Callable[..., Any] = found
    return function


def _called(function: Callable[..., Any], option: str) -> Any:
    try:
        return function()
    except ParamattrError:
        raise
    except Exception as error:
        raise ParamattrError(
            f"{option} failed: {type(error).__name__}: {error}; expected a function that is called "
            "without arguments"
        ) from error


def _to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(device)

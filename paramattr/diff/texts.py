"""Texts from a file of JSON lines, and their batches of tokens."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import DataError
from paramattr.objectives import IGNORED

ALL = "all"
"""The condition of texts that name none."""


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
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"file {path} cannot be read ({error}): expected JSON lines") from None
    texts = [
        _text(line, f"line {number} of {path}")
        for number, line in enumerate(content.split("\n"), 1)
        if line.strip()
    ]
    if not texts:
        raise DataError(f'file {path} is empty: expected lines such as {{"text": "..."}}')
    named = [text for text in texts if text.condition]
    if named and len(named) < len(texts):
        without = next(text for text in texts if not text.condition)
        raise DataError(
            f"{without.place} has no condition, and others have one: give each line one, or none"
        )
    if len({text.condition for text in named} | {ALL}) > 2 and ALL in {t.condition for t in named}:
        raise DataError(f"{path} has a condition {ALL!r}, which stands for all texts: rename it")
    return texts if named else [Text(t.text, t.label, ALL, t.place) for t in texts]


def _text(line: str, place: str) -> Text:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(found, dict):
        raise DataError(f'{place} is no JSON object: expected {{"text": "...", ...}}')
    text, label, condition = (found.get(key) for key in ("text", "label", "condition"))
    if not isinstance(text, str) or not text:
        raise DataError(f'{place} has no "text": found {text!r}; expected a string')
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise DataError(f'{place} has "label" {label!r}: expected a whole number or a name')
    if condition is not None and (not isinstance(condition, str) or not condition):
        raise DataError(f'{place} has "condition" {condition!r}: expected a name')
    return Text(text, label, condition or "", place)


class Tokens:
    """Makes batches of texts for a model.

    Args:
        tokenizer: of the model.
        model: whose forward takes what the tokenizer gives.
        labelled: whether a text's label is the target; else its own tokens are.
        max_tokens: of a text.

    Attributes:
        cut: how many texts were longer.
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
        """Batch the texts of each condition, those of like length together: less padding runs.

        Raises:
            DataError: for a text without a usable label, or of too few tokens.
        """
        conditions = dict.fromkeys(text.condition for text in texts)
        found = {}
        for condition in conditions:
            own = sorted((t for t in texts if t.condition == condition), key=lambda t: len(t.text))
            found[condition] = [self._batch(part) for part in _parts(own, size)]
        return found

    def _batch(self, texts: list[Text]) -> dict[str, Tensor]:
        given = self.tokenizer([text.text for text in texts], truncation=False)["input_ids"]
        self.cut += sum(len(tokens) > self.most for tokens in given)
        batch = self.tokenizer(
            [text.text for text in texts],
            truncation=True,
            max_length=self.most,
            padding=True,
            return_tensors="pt",
        )
        taken = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in batch.items() if name in taken}
        if self.labelled:
            return {**inputs, "labels": torch.tensor([self._label(text) for text in texts])}
        mask = batch["attention_mask"]
        for text, length in zip(texts, mask.sum(1).tolist(), strict=True):
            if length < 2:
                raise DataError(f"{text.place} has {length} token: expected 2, one to foretell")
        return {**inputs, "labels": batch["input_ids"].masked_fill(mask == 0, IGNORED)}

    def _label(self, text: Text) -> int:
        numbers: dict[str, int] = dict(getattr(self.config, "label2id", None) or {})
        count = int(getattr(self.config, "num_labels", 0) or len(numbers))
        label = numbers.get(text.label) if isinstance(text.label, str) else text.label
        if label is None and text.label is None:
            raise DataError(f'{text.place} has no "label", which the objective compares with')
        if label is None or not 0 <= label < count:
            raise DataError(
                f"{text.place} has label {text.label!r}: expected 0 to {count - 1}, or one of "
                f"{', '.join(list(numbers)[:8])}"
            )
        return int(label)

    def _positions(self) -> int | None:
        most = getattr(self.config, "max_position_embeddings", None)
        # RoBERTa and its kin count positions from behind the padding token.
        offset = 2 if "roberta" in str(getattr(self.config, "model_type", "")) else 0
        return most - offset if isinstance(most, int) and most > offset else None


def _parts(texts: list[Text], size: int) -> Iterator[list[Text]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]

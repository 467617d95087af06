"""Texts from a file of JSON lines, and their batches of tokens."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.diff.names import ALL, check_conditions
from paramattr.errors import DataError, one_line
from paramattr.files.reading import parsed
from paramattr.objectives import IGNORED

LONGEST = 2**22
"""Bytes of one line."""
MOST_CONDITIONS = 64
"""What every two of them have in common is kept for each unit."""


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

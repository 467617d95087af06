"""Names of conditions, of their files and of the two models, in the words of `paramattr diff`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from paramattr.errors import DataError, ParamattrError

ALL = "all"
"""The condition of samples that name none, and what stands for all conditions together."""
LONGEST_NAME = 80
"""Bytes of a file's name that a condition may take. Some file systems end names at 143 bytes, and
the kind of unit, the ending and the mark of a file half written come on top."""


def check_conditions(conditions: Collection[str], place: str) -> None:
    """Refuse a condition that is called as all of them together are, and names with control codes.

    Args:
        conditions: their names.
        place: name of what has them, for the message.

    Raises:
        DataError: naming the condition.
    """
    if len(conditions) > 1 and ALL in conditions:
        raise DataError(
            f"{place} has a condition {ALL!r}, which stands for all conditions together: rename it"
        )
    for name in conditions:
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise DataError(
                f"{place} has a condition {name[:40]!r}, whose name holds control codes, which a "
                "terminal obeys: rename it"
            )


def file_names(conditions: Iterable[str]) -> dict[str, str]:
    """Give each condition a name for its files: unique, also where capitals are not told apart.

    >>> file_names(["red", "a b", "a_b-1", "x" * 300])["a b"]
    'a_b-2'
    """
    safe = {condition: _safe(condition) for condition in conditions}
    found: dict[str, str] = {}
    taken = set[str]()
    # Conditions whose names can stay as they are come first: no other takes their name.
    as_they_are = [name for name, kept in safe.items() if name == kept]
    for condition in as_they_are:
        if _folded(condition) not in taken:
            found[condition] = condition
            taken.add(_folded(condition))
    for number, (condition, kept) in enumerate(safe.items()):
        while condition not in found:
            name = f"{kept}-{number}"
            if _folded(name) not in taken:
                found[condition] = name
                taken.add(_folded(name))
            number += 1
    return {condition: found[condition] for condition in safe}


def _safe(condition: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in condition)
    return kept.encode()[:LONGEST_NAME].decode(errors="ignore")


def _folded(name: str) -> str:
    """Give what a file system sees that tells no capitals and no ways to write an accent apart."""
    return unicodedata.normalize("NFKD", name).casefold()


def counted(count: int, kind: str) -> str:
    """Count units of a kind.

    >>> counted(1, "attention_head"), counted(1200, "neuron")
    ('1 attention head', '1,200 neurons')
    """
    return f"{count:,} {kind.replace('_', ' ')}{'s' * (count != 1)}"


ENDS = ("tuned", "base")
"""Names of the two models, as ends of the path."""
_PHRASES = {
    "FAIG(target, baseline) takes the fine-tuned model first": (
        "paramattr diff BASE TUNED takes the base first"
    ),
    "path=...": "--curve FILE",
    "the target model": "the tuned model",
}
_WORDS = {"target": "tuned model", "baseline": "base"}
# What stands in quotes, and what is part of a longer name or of a place, is the user's own word.
_FOUND = re.compile(
    r"(?<!\w)'[^']*'(?!\w)|" + "|".join(map(re.escape, _PHRASES)) + r"|"
    r"(?<![\w/\\.-])(?:" + "|".join(_WORDS) + r")(?![\w/\\-]|\.\w)"
)


def spoken(message: str) -> str:
    """Say something of the engine's in the words of `paramattr diff`.

    >>> spoken("the target is worse than its baseline on 'target'")
    "the tuned model is worse than its base on 'target'"
    """

    def said(found: re.Match[str]) -> str:
        own = found.group()
        return _PHRASES.get(own) or _WORDS.get(own) or own

    return _FOUND.sub(said, message)


@contextmanager
def in_words_of_diff() -> Iterator[None]:
    """Raise the engine's errors in the words of `paramattr diff`.

    Raises:
        ParamattrError: of the same kind.
    """
    try:
        yield
    except ParamattrError as error:
        raise type(error)(spoken(str(error))) from error

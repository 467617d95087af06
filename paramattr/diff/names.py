"""Names of conditions, and of the files that are made from them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from paramattr.errors import DataError

ALL = "all"
"""The condition of samples that name none, and what stands for all conditions together."""
LONGEST_NAME = 80
"""Bytes of a file's name that a condition may take. Some file systems end names at 143 bytes, and
the kind of unit, the ending and the mark of a file half written come on top."""


def check_conditions(conditions: Collection[str], place: str) -> None:
    """Refuse a condition that is called as all of them together are, and names with control codes.

    Args:
        conditions: their names.
        place: what has them, for the message.

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

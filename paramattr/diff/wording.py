"""One vocabulary: what the engine says of target and baseline, said of the tuned and the base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from paramattr.errors import ParamattrError

ENDS = ("tuned", "base")
"""What the two models are called, as ends of the path."""
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

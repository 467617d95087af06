"""JSON that somebody else wrote."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """Read JSON; whatever is wrong with it is a `ValueError`.

    Raises:
        ValueError: in one line, also for what is nested too deep or is no text.

    >>> parsed('{"text": "a"}')
    {'text': 'a'}
    >>> parsed("[" * 100_000)
    Traceback (most recent call last):
        ...
    ValueError: it is nested too deep
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None

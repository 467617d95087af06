"""Show the doctests of docstrings as code; Markdown takes `>>>` for quotes inside quotes.

mkdocstrings hands every object to `Doctests` (`extensions:` in `mkdocs.yml`).
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SESSION = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Put a fence around every session of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring in place, before it is parsed."""
        if obj.docstring:
            obj.docstring.value = SESSION.sub(
                lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value
            )

"""What MkDocs does not do with a page by itself: formulas, prompts, the commands' reference.

MkDocs calls `on_page_markdown` for every page (`hooks:` in `mkdocs.yml`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r"```math\n(.*?)\n```", re.DOTALL)
SESSION = re.compile(r"```python\n(?=>>>)")
COMMANDS = re.compile(r"^::: command (\S+) as (.+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Give the page's Markdown with formulas as MathML and prompts that are not copied.

    Args:
        markdown: of the page. A fenced block `math` holds LaTeX. A line `::: command MODULE as
            NAME` stands for the reference of a Typer application.
    """
    markdown = FORMULA.sub(
        lambda found: f'<div class="formula">{formula(found[1])}</div>', markdown
    )
    markdown = SESSION.sub("```pycon\n", markdown)
    return COMMANDS.sub(lambda found: commands(found[1], found[2]), markdown)


def formula(latex: str) -> str:
    r"""Set a formula as MathML, which browsers draw without a script.

    >>> formula("a^2").count("<msup>")
    1
    """
    return convert(latex, display="block")


def commands(module: str, name: str) -> str:
    """Give the reference of a command line, one heading per command, as Typer writes it."""
    told = subprocess.run(
        [sys.executable, "-m", "typer", module, "utils", "docs", "--name", name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = re.sub(r"^# .*\n", "", told, count=1)
    return told.replace("$ paramattr", "paramattr")

"""Name the files and functions that have grown too long to read at a glance.

    python tools/lengths.py paramattr

A file holds one thought, in at most 700 lines. A function has at most 60 without its docstring, and
a command (any public function of a file called `command.py`) at most 25.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE, BODY, COMMAND = 700, 60, 25


def offenders(file: Path) -> Iterator[str]:
    """Describe what is too long in one file."""
    text = file.read_text()
    lines = len(text.splitlines())
    if lines > FILE:
        yield f"{file}: {lines} lines, expected at most {FILE}"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_command = file.name == "command.py" and not node.name.startswith("_")
        most, found = COMMAND if is_command else BODY, length(node)
        if found > most:
            yield (
                f"{file}:{node.lineno}: the body of {node.name} has {found} lines, expected at "
                f"most {most}"
            )


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    r"""Count the lines of a function's body, its docstring aside.

    >>> tree = ast.parse("def f(x):\\n    'Say so.'\\n    y = x\\n    return y")
    >>> length(tree.body[0])
    2
    """
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def main(folders: list[str]) -> int:
    """Print every offender of some folders; 1 if there is any."""
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    found = [line for file in files for line in offenders(file)]
    print("\n".join(found) or f"{len(files)} files: none is too long")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

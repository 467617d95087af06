"""Make notebooks from the documentation's pages and execute them.

    python tools/notebooks.py                          # the pages below, into notebooks/
    python tools/notebooks.py docs/units.md --out DIR

The page's prose becomes Markdown cells, its sessions (`>>>`) become code cells without prompts and
without the output that the page expects. A cell ends where the page shows an output, so that the
notebook shows it too. The program ends with status 1 where a cell raises and the page does not say
so, or does not raise and the page says that it does.
It needs `pip install "paramattr[notebooks]"`, and what the page itself imports.
"""

from __future__ import annotations

import argparse
import doctest
import json
import os.path
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGES = ("quickstart", "choosing", "recipes", "trust")
"""Pages that are made where none is named, of the folder `docs`."""
SESSION = re.compile(r"^```python\n(?=>>>)(.*?)^```$", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?![a-z]+:|[#/])([^)\s]+)\)")
DIRECTIVE = re.compile(r" *# doctest:.*")
RAISES = "raises-exception"
"""Tag of a cell that must raise; nbclient goes on after it."""


def notebook(page: str, docs: str = "../docs") -> dict[str, Any]:
    """Give a page as a notebook, in the JSON form of nbformat 4.5.

    Args:
        page: Markdown, with sessions in fenced blocks `python` that start with `>>>`.
        docs: where the page's links start, as seen from the notebook.
    """
    cells: list[dict[str, Any]] = []
    # Odd parts are the sessions.
    for number, part in enumerate(SESSION.split(page)):
        if number % 2:
            cells += [code(source, raises=raises) for source, raises in steps(part)]
        elif part.strip():
            cells.append(prose(part, docs))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def steps(session: str) -> Iterator[tuple[str, bool]]:
    """Cut a session where it shows something: each step's source, and whether it must raise."""
    waiting = ""
    for example in doctest.DocTestParser().get_examples(session):
        raises = example.exc_msg is not None
        if raises and waiting:
            # What comes before an error must not raise, so it has a cell of its own.
            yield waiting.rstrip(), False
            waiting = ""
        waiting += DIRECTIVE.sub("", example.source)
        if example.want:
            yield waiting.rstrip(), raises
            waiting = ""
    if waiting:
        yield waiting.rstrip(), False


def code(source: str, *, raises: bool) -> dict[str, Any]:
    """Give a code cell that has not run."""
    metadata = {"tags": [RAISES]} if raises else {}
    cell = {"cell_type": "code", "source": source, "metadata": metadata}
    return cell | {"outputs": [], "execution_count": None}


def prose(markdown: str, docs: str) -> dict[str, Any]:
    """Give a Markdown cell, with formulas as Jupyter reads them and links that lead to the page."""
    markdown = FORMULA.sub(lambda found: f"$$\n{found[1]}\n$$", markdown)
    markdown = LINK.sub(rf"]({docs}/\1)", markdown)
    return {"cell_type": "markdown", "source": markdown.strip(), "metadata": {}}


def execute(content: dict[str, Any], folder: Path) -> Any:
    """Run a notebook's cells in the folder and give it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises that should not.
        SystemExit: if a cell does not raise that should.
    """
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.from_dict(content)
    nbformat.validate(node)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(node, timeout=600, startup_timeout=300, resources=resources).execute()
    for cell in node.cells:
        raised = any(output.output_type == "error" for output in cell.get("outputs", ()))
        if RAISES in cell.metadata.get("tags", ()) and not raised:
            raise SystemExit(f"expected an error, as the page shows, found none:\n{cell.source}")
    return node


def main() -> None:
    """Write every page's notebook, executed, and say how long it took."""
    docs = Path(__file__).parent.parent / "docs"
    parser = argparse.ArgumentParser(description="Make notebooks from pages and execute them.")
    pages = [docs / f"{name}.md" for name in PAGES]
    parser.add_argument("pages", nargs="*", type=Path, default=pages)
    parser.add_argument("--out", type=Path, default=Path("notebooks"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for page in arguments.pages:
        start = time.perf_counter()
        content = notebook(page.read_text(encoding="utf-8"), relative(page.parent, arguments.out))
        try:
            done = execute(content, arguments.out)
        except Exception as error:  # a cell's own error, with its traceback
            sys.exit(f"{page}: {error}")
        file = arguments.out / f"{page.stem}.ipynb"
        file.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{file}: {len(done.cells)} cells, {time.perf_counter() - start:.1f} s")


def relative(folder: Path, start: Path) -> str:
    """Give the way from one folder to another, as a link writes it."""
    # pathlib's own takes no steps up before Python 3.12.
    return Path(os.path.relpath(folder.resolve(), start.resolve())).as_posix()


if __name__ == "__main__":
    main()

"""Notebooks made from pages: what becomes of prose, sessions, formulas and links."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
specification = importlib.util.spec_from_file_location("notebooks", ROOT / "tools/notebooks.py")
notebooks = importlib.util.module_from_spec(specification)
specification.loader.exec_module(notebooks)

PAGE = """# Title

See [units](units.md#kernel), [the site](https://example.org) and [below](#below).

```python
>>> total = 0
>>> for k in range(3):
...     total += k

>>> total
3
>>> _ = total
```

```math
a^2
```

```
pip install .
```

```python
>>> name = "x"
>>> int(name)
Traceback (most recent call last):
...
ValueError: invalid literal
>>> 2 + 2  # doctest: +ELLIPSIS
4
```
"""


def test_a_page_becomes_cells():
    cells = notebooks.notebook(PAGE)["cells"]
    assert [(cell["cell_type"], cell["source"]) for cell in cells] == [
        (
            "markdown",
            "# Title\n\nSee [units](../docs/units.md#kernel), [the site](https://example.org) and "
            "[below](#below).",
        ),
        ("code", "total = 0\nfor k in range(3):\n    total += k\ntotal"),
        ("code", "_ = total"),
        ("markdown", "$$\na^2\n$$\n\n```\npip install .\n```"),
        ("code", 'name = "x"'),
        ("code", "int(name)"),
        ("code", "2 + 2"),
    ]
    raising = [cell["source"] for cell in cells if cell["metadata"]]
    assert raising == ["int(name)"]
    assert len({cell["id"] for cell in cells}) == len(cells)


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_no_line_of_a_page_is_left_out(name):
    page = (ROOT / f"docs/{name}.md").read_text()
    cells = notebooks.notebook(page)["cells"]
    sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    for source in sources:
        ast.parse(source)  # Python, without prompts
    code = "\n".join(sources).splitlines()
    lines = [line[4:] for line in page.splitlines() if line.startswith((">>> ", "... "))]
    assert [line for line in code if line] == [line for line in lines if line]
    assert not any(cell.get("outputs") for cell in cells)

"""The small project that mypy and pyright check uses every public name."""

import re
from pathlib import Path

import pytest

import paramattr

PROJECT = "\n".join(file.read_text() for file in Path("tests/user_project").glob("*.py"))


@pytest.mark.parametrize("name", paramattr.__all__)
def test_the_typed_project_uses(name):
    uses = re.findall(rf"\b{name}\b", PROJECT)
    assert len(uses) > 1  # the import, and a use

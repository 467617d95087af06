"""The command line, called in this process."""

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

from paramattr.cli import app, main


def call(*words: object, folder: Path | None = None, width: int = 80) -> tuple[int, str, str]:
    """Call it: its exit code, what it printed, and its complaints.

    In `folder`, if one is given, whose modules can then be imported.
    """
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["paramattr", *map(str, words)])
        patch.setattr(app, "registered_groups", [])  # else each call adds the study again
        patch.setenv("COLUMNS", str(width))
        if folder:
            patch.chdir(folder)
            patch.setattr(sys, "path", [str(folder), *sys.path])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code, out.getvalue(), err.getvalue()


def answer(ran, *words: object) -> dict:
    """Read what a command that ends well prints with `--json`."""
    code, out, err = ran(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def refusal(ran, *words: object) -> str:
    """Read the one line in which a command refuses what it was given."""
    code, out, err = ran(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("paramattr: ")
    return err


study = partial(call, "blindsr")

"""Ranks of a benchmark: processes that each write what they found into one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = "PARAMATTR_BENCHMARK"


def launch(ranks: int, folder: Path, code: str, *arguments: str) -> list[dict[str, Any]]:
    """Run Python code on several ranks with one thread each, and collect their answers.

    Args:
        ranks: how many.
        folder: a new one, for their answers.
        code: Python, which calls `answer`.
        arguments: in `sys.argv` from 1.
    """
    folder.mkdir()
    port = str(29_700 + os.getpid() % 200 + ranks)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    common |= {FOLDER: str(folder), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, *arguments]
    running = [
        subprocess.Popen(words, env={**os.environ, **common, "RANK": str(rank)})
        for rank in range(ranks)
    ]
    for one in running:
        if one.wait():
            raise RuntimeError(f"a rank ended with exit code {one.returncode}")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def answer(found: dict[str, Any]) -> None:
    """Write what this rank found."""
    (Path(os.environ[FOLDER]) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))

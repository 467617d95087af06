"""Where and with what a figure was measured, and the file that keeps both."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from paramattr.files.writing import write_whole

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Describe the commit, the hardware and the versions."""
    found = {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "paramattr")},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
    return found


def write_result(name: str, command: str, result: Mapping[str, Any]) -> Path:
    """Write one benchmark's result beside what it was measured with."""
    path = RESULTS / f"{name}.json"
    content = {"command": command, "environment": environment(), **result}
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def _commit() -> str:
    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = (
        "+changes" if git("status", "--porcelain", "--", "../paramattr", "../examples") else ""
    )
    # A copy without its history may be told where it comes from, as build servers do.
    given = os.environ.get("GIT_COMMIT", "unknown")
    return (git("rev-parse", "--short=12", "HEAD") or given) + changed


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        made = subprocess.run(words, capture_output=True, text=True, check=True)
        return made.stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return name + " with AMX" * (" amx_bf16" in text)  # which decides what bfloat16 gains

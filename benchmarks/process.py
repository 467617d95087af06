"""This process's memory as Linux counts it, and programs in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def field(name: str) -> int:
    """Read one of `/proc/self/status`, in bytes: of this process alone, not of its parent too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> None:
    """Let the peak (`VmHWM`) begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def apart(module: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Call a module's `measure` in a process of its own, with a setting as keywords.

    Args:
        module: its path.
        setting: of the kinds JSON knows; what `measure` returns is of these too.
    """
    program = (
        f"import json, sys; from {module} import measure; "
        "print(json.dumps(measure(**json.loads(sys.argv[1]))))"
    )
    words = [sys.executable, "-c", program, json.dumps(setting)]
    ran = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found

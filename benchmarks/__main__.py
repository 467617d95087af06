"""Run the benchmarks on what the package ships with, then print one table of all results.

    python -m benchmarks [--table]

With `--table` nothing is run. What is run goes into `benchmarks/results/local/`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.environment import RESULTS

RUNS = (
    "attribution",
    "speed",
    "samples",
    "limit",
    "scaling",
    "gpu",
    "completeness",
    "middle",
    "models",
    "align",
    "masking",
    "compare",
    "compare --units output_channel --name local/compare_channels",
    "stability",
    "text",
)


def table() -> Table:
    """Give a line per result file: what was run, on what, and its single figures."""
    found = Table("result", "commit", "hardware", "figures", title="Benchmarks")
    for path in sorted(RESULTS.rglob("*.json")):
        result = json.loads(path.read_text())
        made = result["environment"]
        hardware = f"{made['cpu']}, {made['threads']} threads"
        if result.get("device") == "cuda":
            hardware = made["gpu"]
        name = str(path.relative_to(RESULTS).with_suffix(""))
        found.add_row(name, made["commit"], hardware, "\n".join(_figures(result)))
    return found


def _figures(result: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in result.items():
        if isinstance(value, bool | int | float):
            yield f"{prefix}{name}: {value:.4g}"
        elif isinstance(value, dict) and name not in ("environment", "profile"):
            yield from _figures(value, f"{prefix}{name}, ")
        elif name == "rows":
            yield f"{prefix}rows: {len(value)}"


if __name__ == "__main__":
    if "--table" not in sys.argv:
        for words in RUNS:
            name, *options = words.split()
            command = [sys.executable, "-m", f"benchmarks.bench_{name}", *options]
            subprocess.run(command, check=True)
    Console().print(table())

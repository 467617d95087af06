"""Run the benchmarks that need nothing but the package, then print one table of all results.

    python -m benchmarks [--table | --list]

With `--table` nothing is run, and with `--list` every benchmark is named, with those that are not
run here: they take photographs or models of yours, or hours. What is run goes into
`benchmarks/results/local/`.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.environment import RESULTS

HERE = Path(__file__).parent
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


def listed() -> Table:
    """Give a line per benchmark: its name, whether it is run here, and the question it answers."""
    found = Table("benchmark", "run here", "question", title="python -m benchmarks.bench_NAME")
    run_here = {words.split()[0] for words in RUNS}
    for path in sorted(HERE.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        question = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        found.add_row(name, "yes" if name in run_here else "", question)
    return found


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
    if "--list" in sys.argv:
        Console().print(listed())
        sys.exit()
    if "--table" not in sys.argv:
        for words in RUNS:
            name, *options = words.split()
            command = [sys.executable, "-m", f"benchmarks.bench_{name}", *options]
            subprocess.run(command, check=True)
    Console().print(table())

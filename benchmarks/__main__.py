"""Run the benchmarks on what the package brings along, then print one table of all results.

    python -m benchmarks [--table]

With `--table` nothing is run.
"""

import json
import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    bench_attribution,
    bench_compare,
    bench_completeness,
    bench_gpu,
    bench_limit,
    bench_masking,
    bench_samples,
    bench_scaling,
    bench_speed,
    bench_stability,
    bench_text,
)
from benchmarks.environment import RESULTS


def table() -> Table:
    """Give a line a result file: what was run, on what, and its single figures."""
    found = Table("result", "commit", "hardware", "figures", title="Benchmarks")
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        made = result["environment"]
        hardware = f"{made['cpu']}, {made['threads']} threads"
        if result.get("device") == "cuda":
            hardware = made["gpu"]
        found.add_row(path.stem, made["commit"], hardware, "\n".join(_figures(result)))
    return found


def _figures(result: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name, value in result.items():
        if isinstance(value, bool | int | float):
            lines.append(f"{prefix}{name}: {value:.4g}")
        elif isinstance(value, dict) and name not in ("environment", "profile"):
            lines += _figures(value, f"{prefix}{name}, ")
        elif name == "rows":
            lines.append(f"{prefix}rows: {len(value)}")
    return lines


if __name__ == "__main__":
    if "--table" not in sys.argv:
        bench_attribution.main(["--name", "attribution_bundled"])
        bench_speed.main(["--name", "speed"])
        bench_samples.main(["--name", "samples"])
        bench_limit.main(["--name", "limit"])
        bench_scaling.main(["--name", "scaling"])
        bench_gpu.main(["--name", "gpu" if torch.cuda.is_available() else "gpu_dry_run"])
        bench_completeness.main(["--name", "completeness_bundled"])
        bench_masking.main(["--name", "masking_bundled"])
        bench_compare.main(["--name", "compare_bundled"])
        bench_compare.main(["--name", "compare_bundled_channels", "--units", "output_channel"])
        bench_stability.main(["--name", "stability_bundled"])
        bench_text.main([])
    Console().print(table())

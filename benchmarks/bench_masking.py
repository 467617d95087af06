"""Mask 1, 3, 5 and 10% of the filters by each method: what `paramattr blindsr mask` measures.

python -m benchmarks.bench_masking [--images DIR] [--crop N] [--steps N] [--name NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.command import keep


def main(arguments: list[str] | None = None) -> None:
    """Run the command, keep its rows and print the two ratios of each share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pct", type=float, nargs="+", default=[1, 3, 5, 10])
    parser.add_argument("--name", default="masking")
    options = parser.parse_args(arguments)
    words = ["blindsr", "mask", "--crop", str(options.crop), "--steps", str(options.steps)]
    for pct in options.pct:
        words += ["--pct", f"{pct:g}"]
    result = keep(options.name, words, options.images, [])
    for row in result["ratios"]:
        if row["method"] == "faig":
            print(
                f"{row['mask']:>5} {row['pct']:>3g}%  over random {row['over_random']:6.1f}  "
                f"over the other degradation {row['over_other']:6.1f}"
            )


if __name__ == "__main__":
    main()

"""Every method's curve from 0 to 100% of the filters: what `paramattr blindsr compare` measures.

    python -m benchmarks.bench_compare [--images DIR] [--crop N] [--units UNITS] [--name NAME]

A run that is repeated with the same OUT after a kill goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.command import keep


def main(arguments: list[str] | None = None) -> None:
    """Run the command, keep its rows and print Tab. 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder; the bundled photographs by default")
    parser.add_argument("--crop", type=int, default=40)
    parser.add_argument("--units", default="kernel")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--network", default="srresnet")
    parser.add_argument("--out", default="compare-output")
    parser.add_argument("--name", default="compare")
    options = parser.parse_args(arguments)
    words = ["blindsr", "compare", "--crop", str(options.crop), "--units", options.units]
    words += ["--methods", options.methods, "--network", options.network]
    resumed = (Path(options.out) / "running").exists()
    result = keep(options.name, words, options.images, ["--out", options.out], resumed=resumed)
    for row in result["rows"]:
        if row["mask"] == row["input"]:
            print(
                f"{row['mask']:>5} {row['pct']:g}% {row['method']:>28} "
                f"{row['difference_x1000']:6.2f} ({row['low']:.2f}-{row['high']:.2f})"
            )


if __name__ == "__main__":
    main()

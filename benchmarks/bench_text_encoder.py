"""The example `examples/text_encoder.py`, seed after seed, into one result.

python -m benchmarks.bench_text_encoder --seeds 3
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from benchmarks.environment import write_result

EXAMPLE = Path(__file__).parent.parent / "examples" / "text_encoder.py"


def main() -> None:
    """Run every seed; the result is written anew after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", default="local/text_encoder")
    options = parser.parse_args()
    spec = spec_from_file_location("text_encoder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example: Any = module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    results: list[Any] = []
    started, used = time.perf_counter(), time.process_time()
    for seed in range(options.seeds):
        results.append(example.run(example.Config(seed=seed)))
        table = example.table(results)
        write_result(
            options.name,
            f"python -m benchmarks.bench_text_encoder --seeds {len(results)}",
            {
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - used, 1),
                "seeds": [vars(result) for result in results],
                "table": table.split("\n"),
            },
        )
    print(example.table(results))


if __name__ == "__main__":
    main()

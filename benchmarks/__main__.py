"""Run the benchmarks on what the package brings along: `python -m benchmarks`."""

from benchmarks import bench_completeness, bench_masking

bench_completeness.main(["--name", "completeness_bundled"])
bench_masking.main(["--name", "masking_bundled"])
